"""The real stability radius against every real perturbation one can draw, where Qiu's infimum is at its edge."""

import control
import numpy as np
import pytest

import lipctrl


def worst_pole(plant, delta):
    poles = np.linalg.eigvals(plant.A + plant.B @ delta @ plant.C)
    return np.abs(poles).max() - 1.0 if plant.dt else poles.real.max()


def random_plant(seed, shape, dt):
    outputs, inputs = shape
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    a = rng.standard_normal((n, n))
    if dt:
        a *= 0.95 / np.abs(np.linalg.eigvals(a)).max()
    else:
        a -= (np.linalg.eigvals(a).real.max() + 0.3) * np.eye(n)
    return control.ss(a, rng.standard_normal((n, inputs)), rng.standard_normal((outputs, n)), 0, dt)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("dt", [0, True])
def test_no_real_perturbation_inside_the_radius_destabilises(shape, dt):
    for seed in range(4):
        plant = random_plant(seed, shape, dt)
        radius = lipctrl.stability_radius(plant, field="real")
        assert radius >= lipctrl.stability_radius(plant) * (1.0 - 1e-9)
        rng = np.random.default_rng(seed)
        for _ in range(150):
            delta = rng.standard_normal(shape[::-1])
            delta *= 0.9999 * radius / np.linalg.norm(delta, 2)
            assert worst_pole(plant, delta) < 0.0


@pytest.mark.parametrize("dt", [0, 0.05])
def test_a_scalar_loop_is_lost_exactly_at_the_real_radius(dt):
    for seed in range(12):
        plant = random_plant(seed, (1, 1), dt)
        radius = lipctrl.stability_radius(plant, field="real")
        ends = [worst_pole(plant, np.array([[sign * radius]])) for sign in (-1.0, 1.0)]
        inside = [worst_pole(plant, np.array([[0.9999 * sign * radius]])) for sign in (-1.0, 1.0)]
        assert max(inside) < 0.0
        assert max(ends) == pytest.approx(0.0, abs=1e-3)
