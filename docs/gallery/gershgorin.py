import torch

import lipctrl
from lipctrl import plots

figure, axes = plots.subplots(1, 2, size=(11.0, 6.6))
for ax, parametrization in zip(axes.ravel(), ("gershgorin", "lossless"), strict=True):
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(4, 1, width=8, depth=1, parametrization=parametrization)
    block = next(node for node in network.certificate().nodes() if node.rule == "neurons")
    plots.gershgorin_plot(plots.gershgorin_discs(block), ax=ax, title=parametrization)
