"""Torch modules that the tests of several front ends share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return x + 0.3 * self.b(F.relu(self.a(x)))


def called(forward) -> nn.Module:
    """A module with two Linear layers and a convolution, that runs `forward(self, x)`."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Conv1d(1, 2, 3)

        def forward(self, x):
            return forward(self, x)

    torch.manual_seed(0)
    return Called().double()
