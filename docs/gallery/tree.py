import torch

import lipctrl
from lipctrl import nn, plots

torch.manual_seed(0)
nested = nn.Recursive(nn.LosslessBlock(6, 6, width=8), 8, 8)  # a block in a block's nonlinearity
trunk = nn.Sequential(nn.OrthogonalLinear(4, 8), nested, nn.Residual(nn.LosslessBlock(8, 8, width=8)))
network = nn.Scale(nn.Sequential(trunk, nn.OrthogonalLinear(8, 1)), 0.5)
policy = lipctrl.ResidualPolicy(gain=[[1.0, 20.0, 2.0, 4.0]], network=network, action_limits=10.0)
ax = plots.tree_plot(policy.certificate())
