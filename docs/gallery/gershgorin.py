import torch
from matplotlib import pyplot as plt

import lipctrl
from lipctrl import plots

figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
for ax, parametrization in zip(axes, ("gershgorin", "lossless")):
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(4, 1, width=8, depth=1, parametrization=parametrization)
    block = next(node for node in network.certificate().nodes() if node.rule == "neurons")
    plots.gershgorin_plot(plots.gershgorin_discs(block), ax=ax, title=parametrization)
