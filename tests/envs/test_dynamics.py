"""The equations of motion are right: checked against Lagrange's equations, conservation laws and textbook forms."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
import torch

from lipctrl_envs import (
    CartPole,
    DoublePendulumCart,
    LateralVehicle,
    MassSpringChain,
    Pendulum,
    PlanarQuadrotor,
    SpinningSatellite,
    TwoMassDrive,
)
from lipctrl_envs.satellite import rotation


def rod_and_cart(plant):
    """CartPole: a uniform rod of length 2l about its own centre, on a cart."""
    M, m, l, g = plant.cart_mass, plant.pole_mass, plant.half_length, plant.gravity

    def kinetic(q, v):
        x_rate = v[0] + l * torch.cos(q[1]) * v[1]
        y_rate = -l * torch.sin(q[1]) * v[1]
        return 0.5 * (M * v[0] ** 2 + m * (x_rate**2 + y_rate**2) + m * l**2 / 3 * v[1] ** 2)

    def potential(q):
        return m * g * l * torch.cos(q[1])

    def force(q, v, u, d):
        push = u[0] + d[0] + d[1] - plant.cart_damping * v[0]
        return torch.stack([push, d[1] * l * torch.cos(q[1]) - plant.pole_damping * v[1]])

    return kinetic, potential, force


def mass_on_a_rod(plant):
    def kinetic(q, v):
        return 0.5 * plant.mass * plant.length**2 * v[0] ** 2

    def potential(q):
        return plant.mass * plant.gravity * plant.length * torch.cos(q[0])

    def force(q, v, u, d):
        return u + d - plant.damping * v

    return kinetic, potential, force


def two_masses_on_two_rods(plant):
    l1, l2, m1, m2 = plant.lower_length, plant.upper_length, plant.lower_mass, plant.upper_mass

    def points(q):
        lower = torch.stack([q[0] + l1 * torch.sin(q[1]), l1 * torch.cos(q[1])])
        return lower, lower + torch.stack([l2 * torch.sin(q[2]), l2 * torch.cos(q[2])])

    def kinetic(q, v):
        first, second = (torch.func.jvp(lambda q, i=i: points(q)[i], (q,), (v,))[1] for i in (0, 1))
        return 0.5 * (plant.cart_mass * v[0] ** 2 + m1 * first @ first + m2 * second @ second)

    def potential(q):
        first, second = points(q)
        return plant.gravity * (m1 * first[1] + m2 * second[1])

    def force(q, v, u, d):
        joint = plant.joint_damping * (v[2] - v[1])
        across = d[1] * l2 * torch.cos(q[2])
        return torch.stack(
            [u[0] + d[0] - plant.cart_damping * v[0], joint - plant.joint_damping * v[1], across - joint]
        )

    return kinetic, potential, force


def thrust_in_the_plane(plant):
    m, g = plant.mass, plant.gravity

    def kinetic(q, v):
        return 0.5 * (m * (v[0] ** 2 + v[1] ** 2) + plant.inertia * v[2] ** 2)

    def potential(q):
        return m * g * q[1]

    def force(q, v, u, d):
        lift = m * g + u[0]
        return torch.stack(
            [
                -lift * torch.sin(q[2]) - plant.drag * v[0] + d[0],
                lift * torch.cos(q[2]) - plant.drag * v[1] + d[1],
                u[1],
            ]
        )

    return kinetic, potential, force


def springs_in_a_row(plant):
    def stretches(q):
        return torch.cat([q[:1], q[1:] - q[:-1]])

    def kinetic(q, v):
        return 0.5 * plant.mass * v @ v

    def potential(q):
        s = stretches(q)
        return 0.5 * plant.stiffness * s @ s + 0.25 * plant.hardening * (s**4).sum()

    def force(q, v, u, d):
        damping = -torch.func.grad(lambda v: 0.5 * plant.damping * stretches(v).square().sum())(v)
        return damping + d + torch.zeros_like(d).index_add(0, torch.tensor(plant.driven), u)

    return kinetic, potential, force


def two_masses_and_a_shaft(plant):
    def kinetic(q, v):
        return 0.5 * (plant.motor_mass * v[0] ** 2 + plant.load_mass * v[1] ** 2)

    def potential(q):
        return 0.5 * plant.stiffness * (q[0] - q[1]) ** 2

    def force(q, v, u, d):
        drag = plant.damping * (v[0] - v[1])
        return torch.stack([u[0] + d[0] - drag, d[1] + drag])

    return kinetic, potential, force


CASES = [
    (Pendulum(length=0.7, mass=1.3), mass_on_a_rod),
    (CartPole(pole_mass=0.4, pole_damping=0.05), rod_and_cart),
    (DoublePendulumCart(lower_mass=0.5, upper_length=0.3, joint_damping=0.1), two_masses_on_two_rods),
    (PlanarQuadrotor(), thrust_in_the_plane),
    (MassSpringChain(masses=5, actuators=3), springs_in_a_row),
    (TwoMassDrive(motor_mass=0.8, damping=0.3), two_masses_and_a_shaft),
]


@pytest.mark.parametrize(("plant", "lagrangian"), CASES, ids=lambda c: getattr(c, "name", ""))
def test_accelerations_satisfy_lagrange_s_equations(plant, lagrangian):
    """d/dt ∂L/∂q̇ - ∂L/∂q = Q, with the derivatives taken automatically from the energies alone."""
    kinetic, potential, force = lagrangian(plant)
    rng = torch.Generator().manual_seed(0)
    k = plant.physical_size // 2
    for _ in range(5):
        q, v = torch.randn((2, k), generator=rng, dtype=torch.float64)
        u = torch.randn(plant.action_size, generator=rng, dtype=torch.float64)
        d = torch.randn(len(plant.disturbances), generator=rng, dtype=torch.float64)
        mass = torch.func.hessian(kinetic, argnums=1)(q, v)
        momentum_drift = torch.func.jacrev(torch.func.grad(kinetic, argnums=1), argnums=0)(q, v) @ v
        slope = torch.func.grad(lambda q, v=v: kinetic(q, v) - potential(q))(q)
        expected = torch.linalg.solve(mass, force(q, v, u, d) + slope - momentum_drift)
        found = torch.stack(list(plant.acceleration(list(q), list(v), list(u), list(d), plant)))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_energy_of_a_free_pendulum_stays_in_a_band():
    """The semi-implicit step neither heats nor cools: over 200 swings the energy error does not grow."""
    plant = Pendulum(damping=0.0)
    state = torch.tensor([math.pi - 1.0, 0.0], dtype=torch.float64)
    action = torch.zeros(1, dtype=torch.float64)
    energies = []
    for _ in range(20_000):
        state = plant.transition(state, action)
        energies.append(float(0.5 * state[1] ** 2 + plant.gravity * torch.cos(state[0])))
    start, end = np.array(energies[:2000]), np.array(energies[-2000:])
    assert abs(start.mean() - end.mean()) < 0.01
    assert np.ptp(end) < 1.05 * np.ptp(start)


def free_satellite(dt: float, spin: float = 0.5) -> tuple[SpinningSatellite, torch.Tensor]:
    plant = SpinningSatellite(dt=dt, spin=spin)
    return plant, torch.tensor([0.1, -0.2, 0.15, 0.1, -0.05, 0.08], dtype=torch.float64)


def test_a_free_satellite_keeps_its_angular_momentum_in_space():
    """The inertial angular momentum H = Rᵀ J ω is constant; the step keeps it to first order in dt."""
    drifts = []
    for dt in (0.02, 0.01):
        plant, state = free_satellite(dt)
        inertia = np.array([plant.inertia1, plant.inertia2, plant.inertia3])

        def momentum(x, time, plant=plant, inertia=inertia):
            omega = x[3:].numpy() + np.array([0.0, 0.0, plant.spin])
            c, s = math.cos(plant.spin * time), math.sin(plant.spin * time)
            reference = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
            return reference.T @ rotation(x[:3].numpy()).T @ (inertia * omega)

        first = momentum(state, 0.0)
        steps = round(10.0 / dt)
        for _ in range(steps):
            state = plant.advance(state, torch.zeros(3, dtype=torch.float64))
        drifts.append(float(np.linalg.norm(momentum(state, 10.0) - first) / np.linalg.norm(first)))
    assert drifts[1] < 0.02
    assert drifts[1] < 0.65 * drifts[0], "the error must vanish with the step"


def test_an_undisturbed_spin_is_not_heated_by_the_integrator():
    plant = SpinningSatellite()
    poles = np.abs(plant.linearize().poles())
    np.testing.assert_allclose(poles, 1.0, atol=1e-6)


def test_the_two_mass_drive_is_the_published_benchmark():
    """Wie and Bernstein: from u to q₂, k / (s² (m₁ m₂ s² + k (m₁ + m₂))) for c = 0, sampled by our step."""
    plant = TwoMassDrive(damping=0.0, dt=1e-3)
    system = plant.linearize()
    transfer = control.tf([1.0], [1.0, 0.0, 2.0, 0.0, 0.0])
    for omega in (0.3, 1.0, 2.0):
        z = np.exp(1j * omega * plant.dt)
        assert system(z)[1, 0] == pytest.approx(transfer(1j * omega), rel=5e-3)


def test_the_vehicle_is_rajamani_s_for_small_slip():
    plant = LateralVehicle(dt=1e-4)
    system = plant.linearize()
    rate = (system.A - np.eye(4)) / plant.dt
    m, J, U, a, b = plant.mass, plant.inertia, plant.speed, plant.front, plant.rear
    Cf, Cr = plant.front_stiffness, plant.rear_stiffness
    expected = np.array(
        [
            [0, (Cf + Cr) / m, -(Cf + Cr) / (m * U), (-Cf * a + Cr * b) / (m * U)],
            [0, (Cf * a - Cr * b) / J, -(Cf * a - Cr * b) / (J * U), -(Cf * a**2 + Cr * b**2) / (J * U)],
        ]
    )
    np.testing.assert_allclose(rate[2:], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(system.B[2:, 0] / plant.dt, [Cf / m, Cf * a / J], rtol=1e-9)


def test_tyres_never_push_harder_than_their_grip():
    plant = LateralVehicle()
    front, rear = plant.grips(plant)
    assert front + rear == pytest.approx(plant.friction * plant.mass * plant.gravity)
    wild = [torch.full((), 3.0, dtype=torch.float64)]
    rest = torch.zeros((), dtype=torch.float64)
    sideways, _ = plant.acceleration([rest, rest], [rest, rest], wild, None, plant)
    assert float(sideways) == pytest.approx(front / plant.mass, rel=1e-6)


def test_a_long_chain_has_the_textbook_frequencies():
    """Fixed-free chain: ω_j = 2 √(k/m) sin((2j - 1) π / (2 (2n + 1)))."""
    n = 60
    plant = MassSpringChain(masses=n, actuators=5, damping=0.0, hardening=0.0, dt=1e-3)
    system = plant.linearize()
    assert (system.nstates, system.ninputs) == (120, 5)
    found = np.sort(np.abs(np.angle(np.linalg.eigvals(system.A))))[::2] / plant.dt
    expected = 2.0 * np.sin((2 * np.arange(1, n + 1) - 1) * np.pi / (2 * (2 * n + 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(plant.lure_form().lower) == 0


def test_forces_of_a_chain_are_spread_and_counted():
    assert MassSpringChain(masses=6, actuators=3).driven == [1, 3, 5]
    assert MassSpringChain(masses=7, actuators=1).driven == [6]
    for masses, actuators in ((0, 1), (3, 4), (3, 0), (2.5, 1)):
        with pytest.raises(ValueError, match="whole number"):
            MassSpringChain(masses=masses, actuators=actuators)
