import torch

import lipctrl
from lipctrl import plots

torch.manual_seed(0)
network = lipctrl.LipschitzResNet(8, 8, lipschitz=2.0, width=16, depth=10)
ax = plots.singular_values_plot(plots.block_singular_values(network.certificate()))
