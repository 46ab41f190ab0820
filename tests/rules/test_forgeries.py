"""Files made to mislead the checker or to stop it: a false claim never proves, and an absurd one ends in a message."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.arithmetic import Dyadic, Enclosure
from lipctrl.certificate import Certificate, CertificateFormatError
from lipctrl.certificate_reader import certificate_from_dict, load_certificate
from lipctrl.checker import check
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite
from lipctrl.rules import Layer, Output
from lipctrl.rules.network import graph_of
from lipctrl.rules.reduction import reduce_graph


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 5, 7])
def test_a_rounding_bound_that_is_no_number_proves_nothing(bad, place):
    """A maximum that drops NaN passed eight blocks of which one was unknown."""
    size, count = 4, 8
    radii = [np.full((size, size), bad if i == place else 0.0) for i in range(count)]
    blocks = {(i, i): Enclosure(np.eye(size), radius) for i, radius in enumerate(radii)}
    with pytest.raises(NotProvedError):
        prove_positive_semidefinite(blocks, [size] * count)


def cancelling(gain: float, layers: int, width: int) -> Certificate:
    """A map of gain 1e290 whose weights cancel to zero in float64, while their absolute values overflow."""
    steep, wide = 1.5 * 2.0**511, 2.0**512
    first = np.zeros((3, width))
    first[:, 0] = [wide, 1e290, wide]
    second = np.array([[steep, 1.0, -steep]] * 2)
    return rules.network(
        [
            *(Layer({0: np.eye(width)}, "relu", np.full(width, 0.1)) for _ in range(layers)),
            Layer({1: first}, "identity"),
            Layer({layers + 1: second}, "identity"),
        ],
        Output({layers + 2: [[0.0, 1.0]]}),
        {l: np.full(width, 0.05) for l in range(1, layers + 1)},
        gain,
        in_features=width,
    )


@pytest.mark.parametrize("layers", [1, 4, 6])
@pytest.mark.parametrize("width", [4, 6, 8])
def test_products_that_overflow_only_in_their_error_bound_prove_nothing(layers, width):
    forged = cancelling(2.0, layers, width)
    assert not check(forged).ok
    assert not check(forged, route="exact").ok


@pytest.mark.parametrize("kind", [Enclosure, Dyadic])
def test_a_remainder_of_width_one_is_a_remainder(kind):
    """The half width of [7, 9 - 2⁻⁴⁹] rounds to one: its neuron is 8 v + q with q in [-1, 1], not with q in [7, 9]."""
    graph = graph_of([Layer({0: np.eye(2)}, "tanh")], Output({1: np.eye(2)}), 2)
    low, high = np.array([7.0, 0.0]), np.array([9.0 - 2.0**-49, 0.5])
    reduced = reduce_graph(graph, [(low, high)], kind)
    assert reduced.reach[0][0] == 1.0
    assert (reduced.slopes[0][0][0], reduced.slopes[0][1][0]) == (-1.0, 1.0)


@pytest.mark.parametrize("route", ["float", "exact"])
def test_a_steep_exponential_does_not_hide_the_neuron_behind_it(route):
    """ELU of alpha 1e60 falls by one between -1e-60 and 0, where fifty digits of exp(v) - 1 are zero."""
    forged = rules.network(
        [Layer({0: [[1.0]]}, {"name": "elu", "alpha": 1e60}), Layer({1: [[-1.0]]}, "relu", [-0.4])],
        Output({2: [[1.0]]}),
        {1: [0.0]},
        0.0,
        in_features=1,
        region=(np.array([-1e-60]), np.array([0.0])),
    )
    assert np.ptp(forged.evaluate([[-1e-60], [0.0]])) > 0.5
    assert not check(forged, route=route).ok


def nested(times: int) -> dict:
    table: dict = {}
    for _ in range(times):
        table = {"a": table}
    return table


def test_notes_too_deep_to_seal_are_a_failed_proof():
    cert = dataclasses.replace(rules.identity(1), note=nested(5), digest="0")
    object.__setattr__(cert, "note", nested(100_000))
    report = check(cert)
    assert not report.ok
    assert "RecursionError" in str(report)


@pytest.mark.parametrize("depth", [900, 1000, 100_000])
def test_files_nested_too_deeply_end_in_a_message(tmp_path, depth):
    """Up to the depth that the reader bears the digest refuses the file, beyond it the reader does."""
    deep = '{"a": ' * depth + "{}" + "}" * depth
    path = tmp_path / "deep.json"
    path.write_text(json.dumps(rules.identity(1).to_dict()).replace('"note": {}', '"note": ' + deep))
    assert re.search("recursion|RecursionError|digest", answer_to(path))


def answer_to(path):
    """Return what a file is answered by that does not hold a proved certificate."""
    try:
        report = check(load_certificate(path))
    except CertificateFormatError as error:
        return str(error)
    assert not report.ok
    return str(report)


def test_a_few_nodes_that_run_forever_are_proved_printed_and_not_run():
    tree = rules.identity(1)
    for _ in range(60):
        tree = rules.series(tree, tree)
    assert check(tree).ok
    assert str(tree).count("\n") <= 10_000
    with pytest.raises(ValueError, match="more than 1000000 times"):
        tree.evaluate([[1.0]])
    with pytest.raises(ValueError, match="more than 1000000 times"):
        rules.repeat(rules.repeat(rules.identity(1), 10_000), 10_000).evaluate([[1.0]])


def test_a_tree_deeper_than_the_stack_is_proved_and_says_that_it_cannot_run():
    tree = rules.identity(1)
    for _ in range(3000):
        tree = rules.series(tree)
    assert check(tree).ok
    with pytest.raises(ValueError, match="nested too deeply"):
        tree.evaluate([[1.0]])


@pytest.mark.parametrize("rule", ["neurons", "network"])
def test_few_numbers_do_not_ask_for_gigabytes(rule):
    """The LMI of 10⁹ inputs would have 10¹⁸ entries; the file that asks for it has one number."""
    forged = Certificate(
        rule, 1.0, 10**9, 1, weights={"output.bias": np.zeros(1)}, params={"activations": []}
    )
    assert "more than the" in str(check(forged))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("layer0.bias", (2,)), ("layer2.bias", (2,)), ("layer01.from0", (2, 2)), ("layer1.from00", (2, 2))),
        *(("layer1.from1", (2, 2)), ("layer1.from2", (2, 2)), ("output.from2", (2, 2)), ("output", (2,))),
        *(
            ("layer1.from-1", (2, 2)),
            ("layer١.bias", (2,)),
            ("layer1.from0\n", (2, 2)),
            ("Layer1.bias", (2,)),
        ),
        (f"layer{'9' * 5000}.bias", (2,)),
    ],
)
def test_weights_that_no_layer_reads_do_not_hide_in_a_proof(specimens, name, shape):
    node = specimens["neurons"]
    forged = dataclasses.replace(node, weights={**node.weights, name: np.zeros(shape)}, digest="")
    assert not check(forged).ok


@pytest.mark.parametrize(
    ("lower", "upper"), [(np.inf, np.inf), (-np.inf, -np.inf), (np.nan, 1.0), (1.0, -1.0)]
)
def test_limits_without_a_number_between_them_are_no_projection(lower, upper):
    forged = rules.projection(rules.identity(1), [lower], [upper])
    assert not check(forged).ok


def test_a_feedback_that_has_not_converged_returns_no_number():
    loop = rules.feedback(rules.scaling([1.0 - 1e-7]), rules.identity(1))
    assert check(loop).ok
    with pytest.raises(ArithmeticError, match="did not converge"):
        loop.evaluate([[1.0]])


STRANGE = (
    *(True, "1e999", "1", None, [], {}, 1e400, -1, 0, 10**400, 0.5, float("nan"), [0], [0, 0]),
    *("l2", "linf", "sum", "one-sided", "inverse", "contraction", "contraction-rate"),
)
KEYS = (
    *("rule", "gain", "in_features", "out_features", "norm", "claim", "params", "note", "parts", "weights"),
    *("witness", "region", "digest", "extra"),
)


def is_beaten(cert: Certificate, oracle, rng: np.random.Generator) -> bool:
    """Tell whether pairs contradict a claim that involves no metric."""
    if cert.claim == "lipschitz":
        return oracle.attacked(cert, rng, pairs=60) > cert.gain * (1.0 + 1e-9)
    x = rng.standard_normal((300, cert.in_features))
    step = x[::-1] - x
    rise = cert.evaluate(x[::-1]) - cert.evaluate(x)
    square = (step**2).sum(axis=1)
    if cert.claim == "one-sided":
        return bool(((rise * step).sum(axis=1) > (cert.gain + 1e-9) * square).any())
    return bool(((rise**2).sum(axis=1) < (cert.gain - 1e-9) ** 2 * square).any())


def test_fields_of_strange_values_never_crash_and_never_prove_a_lie(specimens, oracle):
    """Every field of every rule by every strange value, with the seal repaired: refused, or true."""
    rng = np.random.default_rng(0)
    proved = 0
    for cert in specimens.values():
        data = cert.to_dict()
        for key in KEYS:
            for value in STRANGE:
                node = {**data["nodes"][-1], key: value}
                try:
                    forged = certificate_from_dict({**data, "nodes": [*data["nodes"][:-1], node]})
                except CertificateFormatError:
                    continue
                forged = dataclasses.replace(forged, digest="")
                if check(forged).ok:
                    proved += 1
                    assert not is_beaten(forged, oracle, rng), (key, value, forged)
    assert proved > 0


def test_exchanged_parts_and_rules_never_prove_a_lie(specimens, oracle):
    """Trees of random rules over random specimens, which nobody would build: refused, or true."""
    rng = np.random.default_rng(1)
    pool = [c for c in specimens.values() if c.region is None]
    ones = np.ones(2)
    extra = {"sum": {"coefficients": np.array([1.0, -0.5])}, "projection": {"lower": -ones, "upper": ones}}
    proved = 0
    for _ in range(1500):
        parts = tuple(pool[i] for i in rng.integers(len(pool), size=rng.integers(1, 3)))
        rule = str(
            rng.choice(
                ["series", "sum", "concat", "parallel", "repeat", "feedback", "centered", "projection"]
            )
        )
        forged = Certificate(
            rule,
            float(rng.choice([0.5, 1.0, 2.0, 5.0, 20.0]) * max(p.gain for p in parts)),
            int(rng.choice([2, 2, 2, 4])),
            int(rng.choice([2, 2, 2, 4])),
            parts=parts,
            weights=extra.get(rule, {}),
            params={"times": int(rng.integers(1, 4))} if rule == "repeat" else {},
            norm=str(rng.choice(["l2", "linf"])),
        )
        if check(forged).ok:
            proved += 1
            assert not is_beaten(forged, oracle, rng), forged
    assert proved > 50
