"""Networks that other people might bring, and an independent semidefinite program."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest


def mlp(sizes: list[int], seed: int = 0, scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return random (W, b) pairs."""
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.standard_normal((b, a)) / np.sqrt(a), rng.standard_normal(b))
        for a, b in itertools.pairwise(sizes)
    ]


def reference(drive: np.ndarray, output: np.ndarray, inputs: int, low: float, high: float) -> float:
    """Solve LipSDP-Neuron by cvxpy and Clarabel: v = drive·(x, z), y = output·(x, z)."""
    cp = pytest.importorskip("cvxpy")
    hidden, total = drive.shape
    eye = np.eye(total)
    e, x = eye[inputs:], eye[:inputs]
    rho, lam = cp.Variable(), cp.Variable(hidden, nonneg=True)
    t = cp.diag(lam)
    n = rho * (x.T @ x) - output.T @ output
    half = (e - low * drive).T @ t @ (e - high * drive)
    n = n + half + half.T
    problem = cp.Problem(cp.Minimize(rho), [0.5 * (n + n.T) >> 0])
    problem.solve(solver="CLARABEL")
    assert problem.status == "optimal"
    return float(np.sqrt(rho.value))


def chain_maps(layers: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (drive, output, inputs) of a plain multilayer network."""
    inputs = layers[0][0].shape[1]
    heights = [w.shape[0] for w, _ in layers[:-1]]
    total = inputs + sum(heights)
    drive = np.zeros((sum(heights), total))
    row = column = 0
    for w, _ in layers[:-1]:
        drive[row : row + w.shape[0], column : column + w.shape[1]] = w
        row, column = row + w.shape[0], column + w.shape[1]
    output = np.zeros((layers[-1][0].shape[0], total))
    output[:, -heights[-1] :] = layers[-1][0]
    return drive, output, inputs


@pytest.fixture(scope="session")
def given() -> SimpleNamespace:
    return SimpleNamespace(mlp=mlp, reference=reference, chain_maps=chain_maps)
