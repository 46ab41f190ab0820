import numpy as np
import torch

import lipctrl
from lipctrl import plots

DEPTHS = np.array([4, 16, 64, 128])


def input_gradient(parametrization, depth, seed):
    """Largest gain of a fresh network at sampled inputs, as a share of its bound."""
    torch.manual_seed(seed)
    network = lipctrl.LipschitzResNet(
        8, 8, lipschitz=1.0, width=32, depth=depth, parametrization=parametrization
    )
    run = network.export()
    x = torch.randn(8, 8, requires_grad=True)
    y = run(x)
    rows = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in range(8)]
    return float(torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2).max())


series = {
    name: plots.SizeSeries(
        DEPTHS, np.array([[input_gradient(name, int(d), seed) for seed in range(3)] for d in DEPTHS])
    )
    for name in ("lossless", "sandwich", "sll", "gershgorin")
}
ax = plots.size_plot(series, quantity="input gradient / bound [ratio]", size="depth [blocks]", reference=1.0)
