import torch

import lipctrl
from lipctrl import plots

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Linear(4, 24), torch.nn.ReLU(), torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 2)
)
methods = ("product", "eclipse-fast", "eclipse", "lipsdp")
bounds = {method: lipctrl.certify(network, method=method).gain for method in methods}
ax = plots.tightness_plot(bounds, lipctrl.lipschitz_lower_bound(network, seed=0))
