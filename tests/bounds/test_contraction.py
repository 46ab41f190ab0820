"""Contraction in a metric: sampled from below, compared with exact spectra, and attacked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lipctrl
from lipctrl.bounds.graph import Builder, Network


def dynamics(n: int, hidden: int, seed: int, continuous: bool, activation: str = "tanh") -> Network:
    """Return A x + B σ(C x) with a stable A that is far from normal."""
    rng = np.random.default_rng(seed)
    a = np.triu(rng.standard_normal((n, n)), 1) + np.diag(rng.uniform(-0.7, 0.7, n))
    if continuous:
        a = a - 2.0 * np.eye(n)
    b, c = 0.2 * rng.standard_normal((n, hidden)) / np.sqrt(hidden), rng.standard_normal((hidden, n))
    build = Builder(n)
    x = build.input()
    return build.finish(
        build.add(build.linear(x, a), build.linear(build.activate(build.linear(x, c), activation), b))
    )


def sampled(cert: lipctrl.Certificate, scale: float = 1.0) -> float:
    rng = np.random.default_rng(1)
    x = scale * rng.uniform(-1.0, 1.0, (3000, cert.in_features))
    y = x + 1e-3 * scale * rng.standard_normal(x.shape)
    if cert.region is not None:
        y = np.clip(y, *cert.region)
    run, rise = x - y, cert.evaluate(x) - cert.evaluate(y)
    p = cert.metric
    size = np.einsum("ij,jk,ik->i", run, p, run)
    if cert.claim == "contraction":
        return float(np.sqrt((np.einsum("ij,jk,ik->i", rise, p, rise) / size).max()))
    return float((np.einsum("ij,jk,ik->i", rise, p, run) / size).max())


@pytest.mark.parametrize("claim", ["contraction", "contraction-rate"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_metric_beats_the_euclidean_norm_and_the_claim_holds(claim, activation, seed):
    net = dynamics(3, 6, seed, claim == "contraction-rate", activation)
    cert = lipctrl.certify(net, property=claim)
    assert lipctrl.check(cert).ok
    assert lipctrl.check(cert, route="exact").ok
    euclidean = lipctrl.certify(net, property="lipschitz" if claim == "contraction" else "one-sided")
    assert cert.gain < euclidean.gain - 0.02 * abs(euclidean.gain)
    assert max(sampled(cert, scale) for scale in (0.1, 3.0)) <= cert.gain + 1e-9
    loaded = lipctrl.certify(net, property=claim, metric=np.eye(3))
    assert loaded.gain == pytest.approx(euclidean.gain, rel=1e-4, abs=1e-6)


def test_linear_maps_contract_as_fast_as_their_spectrum():
    a = np.array([[0.9, 5.0], [0.0, 0.8]])
    discrete = lipctrl.certify([a], property="contraction")
    assert 0.9 <= discrete.gain < 0.97
    continuous = lipctrl.certify([a - 2.0 * np.eye(2)], property="contraction-rate")
    assert -1.1 <= continuous.gain < -1.0
    assert np.linalg.norm(a, 2) > 5.0


def test_local_contraction_is_stronger():
    net = dynamics(2, 6, 3, continuous=False, activation="sigmoid")
    everywhere = lipctrl.certify(net, property="contraction")
    near = lipctrl.certify(net, property="contraction", region=(4.0, 5.0))
    assert near.gain < everywhere.gain
    assert lipctrl.check(near).ok
    assert "in the metric P" in str(near)


def test_the_metric_survives_a_file(tmp_path):
    cert = lipctrl.certify(dynamics(2, 4, 0, continuous=True), property="contraction-rate")
    again = lipctrl.load_certificate(cert.save(tmp_path / "c.json"))
    assert np.array_equal(again.metric, cert.metric)
    assert lipctrl.check(again).ok


@pytest.mark.parametrize("claim", ["contraction", "contraction-rate"])
def test_forged_metrics_and_constants_are_not_proved(claim):
    cert = lipctrl.certify(dynamics(3, 6, 0, claim == "contraction-rate"), property=claim)
    p, bound = cert.metric, sampled(cert)
    forged = {
        "asymmetric": p + np.triu(np.full((3, 3), 1e-12), 1),
        "indefinite": p - 2.0 * np.linalg.eigvalsh(p)[0] * np.eye(3),
        "singular": np.diag([1.0, 1.0, 0.0]),
        "zero": np.zeros((3, 3)),
        "nan": np.full((3, 3), np.nan),
        "shape": np.eye(2),
    }
    for metric in forged.values():
        node = dataclasses.replace(cert, witness={**cert.witness, "metric": metric}, digest="")
        assert not lipctrl.check(node).ok
    without = {k: v for k, v in cert.witness.items() if k != "metric"}
    assert not lipctrl.check(dataclasses.replace(cert, witness=without, digest="")).ok
    # The same numbers do not prove less than what was seen, nor another claim.
    assert not lipctrl.check(dataclasses.replace(cert, gain=bound - 1e-6, digest="")).ok
    for other in {"lipschitz", "one-sided", "inverse", "contraction", "contraction-rate"} - {claim}:
        assert not lipctrl.check(dataclasses.replace(cert, claim=other, gain=0.01, digest="")).ok


def test_a_contraction_is_no_lipschitz_bound_to_compose():
    cert = lipctrl.certify(dynamics(2, 4, 0, continuous=False), property="contraction")
    assert not lipctrl.check(lipctrl.rules.series(cert, lipctrl.rules.identity(2))).ok


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"property": "contraction", "metric": np.array([[1.0, 2.0], [2.0, 1.0]])}, "definite"),
        ({"property": "contraction", "metric": np.array([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ({"property": "contraction", "metric": np.eye(3)}, r"expected \(2, 2\)"),
        ({"metric": np.eye(2)}, "metric belongs"),
        ({"property": "contraction", "method": "eclipse"}, "eclipse"),
    ],
)
def test_bad_metrics_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        lipctrl.certify([np.eye(2)], **arguments)
