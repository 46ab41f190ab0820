"""Every rule: proves what its builder states, in both arithmetics, and refuses what does not follow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.certificate import Certificate
from lipctrl.checker import check
from lipctrl.rules import RULES, Layer, NotProvedError, Output

TIGHT = {
    *("linear-linf", "scaling", "identity", "activation", "groupsort", "series", "series-linf", "sum"),
    *("concat", "concat-linf", "parallel", "repeat", "feedback", "centered", "projection"),
}


def test_every_rule_has_a_specimen(specimens):
    covered = {node.rule for cert in specimens.values() for node in cert.nodes()}
    assert set(RULES) - covered <= {"implicit"}


@pytest.mark.parametrize("route", ["float", "exact"])
def test_what_a_builder_states_is_proved(specimen, route):
    report = check(specimen, route=route)
    assert report.ok, report
    assert report.gain == specimen.gain
    assert report.nodes == sum(1 for _ in specimen.nodes())
    assert bool(report)


def test_no_pair_of_inputs_beats_the_gain(specimen, oracle):
    assert oracle.attacked(specimen, np.random.default_rng(1)) <= specimen.gain * (1.0 + 1e-9)


def test_a_smaller_gain_of_a_tight_rule_is_refused(specimens, oracle):
    for name in TIGHT:
        cert = specimens[name]
        less = oracle.resealed(cert, gain=math.nextafter(cert.gain, 0.0))
        slightly = oracle.resealed(cert, gain=cert.gain * (1.0 - 1e-9))
        assert not check(slightly).ok, name
        if name in ("scaling", "identity", "activation", "groupsort", "projection", "parallel"):
            assert not check(less).ok, name


@pytest.mark.parametrize("gain", [math.nan, math.inf, -math.inf, -1.0])
def test_a_gain_that_is_no_bound_is_refused(specimen, oracle, gain):
    assert not check(oracle.resealed(specimen, gain=gain)).ok


@pytest.mark.parametrize("claim", ["one-sided", "inverse"])
def test_another_property_is_not_proved_by_a_lipschitz_bound(specimen, oracle, claim):
    """`neurons` and `network` prove such claims by their own LMI; nothing else may carry them."""
    forged = oracle.resealed(specimen, claim=claim, gain=max(specimen.gain, 1.0))
    if not check(forged).ok:
        return
    assert specimen.rule in ("neurons", "network")
    assert claim == "one-sided"


def test_a_bound_in_one_norm_is_not_a_bound_in_the_other(specimens, oracle):
    w = np.array([[1.0, 1.0], [1.0, 1.0]]) / 2.0
    l2 = rules.linear(w)
    assert not check(oracle.resealed(rules.linear([[1.0, 1.0]]), norm="linf")).ok
    assert not check(oracle.resealed(rules.linear([[1.0], [1.0]], norm="linf"), norm="l2")).ok
    mixed = Certificate("series", 4.0, 2, 2, parts=(l2, rules.linear(w, norm="linf")))
    assert not check(mixed).ok
    assert not check(oracle.resealed(specimens["neurons"], norm="linf")).ok
    assert not check(oracle.resealed(specimens["network"], norm="linf")).ok


def test_superfluous_or_missing_numbers_are_refused(specimen, oracle):
    for kind in ("weights", "witness"):
        arrays = dict(getattr(specimen, kind))
        assert not check(oracle.resealed(specimen, **{kind: {**arrays, "smuggled": np.zeros(2)}})).ok
        for name in arrays:
            if ".from" in name:
                continue  # an absent source is a zero matrix: another network, proved or not on its own
            fewer = {k: v for k, v in arrays.items() if k != name}
            assert not check(oracle.resealed(specimen, **{kind: fewer})).ok, name
    assert not check(oracle.resealed(specimen, params={**specimen.params, "smuggled": 1})).ok


def test_wrong_dimensions_are_refused(specimen, oracle):
    for field in ("in_features", "out_features"):
        for size in (1, 3, 10**9):
            if size != getattr(specimen, field):
                assert not check(oracle.resealed(specimen, **{field: size})).ok, (field, size)


def test_dropping_or_doubling_a_part_is_refused_or_harmless(specimen, oracle):
    parts = specimen.parts
    if not parts:
        assert not check(oracle.resealed(specimen, parts=(rules.identity(2),))).ok
        return
    assert not check(oracle.resealed(specimen, parts=())).ok


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_infinite_number_hides_in_a_proved_certificate(specimen, oracle, bad):
    for kind in ("weights", "witness"):
        for name, array in getattr(specimen, kind).items():
            poisoned = np.array(array)
            poisoned.flat[-1] = bad
            report = check(oracle.resealed(specimen, **{kind: {**getattr(specimen, kind), name: poisoned}}))
            no_limit = specimen.rule == "projection" and (name, bad) in (
                ("upper", np.inf),
                ("lower", -np.inf),
            )
            assert report.ok == no_limit, (kind, name)


@pytest.mark.parametrize(
    "params",
    [
        {"activation": "nonsense"},
        {"activation": None},
        {"activation": ["relu"]},
        {"activation": {"name": ["relu"]}},
        {"activation": {"name": "leaky_relu", "slope": "steep"}},
        {"activation": {"name": "leaky_relu", "slope": 10**400}},
        {"activation": {"name": "leaky_relu", "slope": True}},
        {"activation": {"name": "groupsort", "size": 0}},
        {"activation": {"name": "groupsort", "size": 3}},
        {"activation": {"name": "relu", "upper": 0.5}},
        {"activation": {"name": "averaged", "activation": {"name": "identity"}}},
        {},
    ],
)
def test_a_strangers_activation_is_a_failed_proof_not_a_crash(params):
    assert not check(Certificate("activation", 1.0, 2, 2, params=params)).ok
    specs = [params.get("activation")]
    node = Certificate(
        "neurons",
        9.0,
        2,
        1,
        weights={
            "layer1.from0": np.eye(2),
            "layer1.bias": np.zeros(2),
            "output.from1": np.ones((1, 2)),
            "output.bias": np.zeros(1),
        },
        witness={"multiplier1": np.ones(2)},
        params={"activations": specs},
    )
    assert not check(node).ok


@pytest.mark.parametrize("times", [0, -1, 1.0, True, "3", None, 10**12])
def test_repeat_takes_a_sane_count(oracle, times):
    half = rules.repeat(rules.linear([[0.5]]), 2)
    assert not check(oracle.resealed(half, params={"times": times}, gain=1.0)).ok


def test_regions_compose_only_where_they_meet(oracle, specimens):
    local = specimens["network-local-linf"]
    one = rules.identity(2, norm="linf")
    assert check(rules.series(local, one)).ok
    assert not check(oracle.resealed(rules.series(local, one), region=None)).ok
    late = Certificate("series", local.gain, 2, 2, parts=(one, local), norm="linf")
    assert not check(late).ok
    wider = (np.array([-9.0, -9.0]), np.array([9.0, 9.0]))
    for combined in (rules.total(local, one), rules.concat(local, one)):
        assert check(combined).ok
        assert not check(oracle.resealed(combined, region=None)).ok
        assert not check(oracle.resealed(combined, region=wider)).ok
    assert not check(rules.parallel(local, one)).ok
    assert not check(rules.repeat(local, 2)).ok
    clipped = rules.projection(local, [-1, -1], [1, 1])
    assert check(clipped).ok
    assert not check(oracle.resealed(clipped, region=None)).ok


def test_regions_that_are_no_boxes_are_refused(oracle, specimens):
    local = specimens["network-local-linf"]
    for region in (
        (np.array([1.0, 0.0]), np.array([-1.0, 1.0])),
        (np.array([np.nan, 0.0]), np.array([1.0, 1.0])),
        (np.array([-np.inf, 0.0]), np.array([1.0, 1.0])),
        (np.zeros(3), np.ones(3)),
        (np.zeros(2), np.ones(1)),
    ):
        assert not check(oracle.resealed(local, region=region)).ok


def test_feedback_needs_a_contraction(oracle, specimens):
    node = specimens["feedback"]
    loop = rules.linear([[1.0, 0.0], [0.0, 1.0]])
    assert not check(oracle.resealed(node, parts=(loop, node.parts[1]), gain=1e300)).ok
    with pytest.raises(NotProvedError):
        rules.feedback(loop, node.parts[1])


def test_feedback_runs_the_fixed_point(specimens):
    node = specimens["feedback"]
    x = np.random.default_rng(0).standard_normal((4, 2))
    w = node.evaluate(x)
    assert np.allclose(w, node.parts[0].evaluate(w) + node.parts[1].evaluate(x), atol=1e-12)


class TestCenter:
    """What the analysis reads from a residual policy, sign and all: u = π(y) = K₀ y + φ(y)."""

    def test_center_radius_and_limits(self, specimens):
        k = np.array([[-3.0, 0.5]])
        policy = rules.projection(rules.centered(k, rules.linear([[0.1, 0.0]])), [-2.0], [2.0])
        assert np.array_equal(policy.center, k)
        assert policy.radius == pytest.approx(0.1, abs=1e-12)
        assert [v.tolist() for v in policy.limits] == [[-2.0], [2.0]]
        assert policy.gain >= np.hypot(3.0, 0.5) + 0.1
        y = np.array([[0.2, 0.4]])
        assert policy.evaluate(y)[0, 0] == pytest.approx(-0.6 + 0.2 + 0.02)
        assert policy.evaluate(100.0 * y)[0, 0] == -2.0

    def test_the_center_must_be_linear(self, oracle):
        whole = rules.centered([[1.0, 0.0]], rules.linear([[0.1, 0.0]]))
        sneaky = rules.series(rules.linear([[1.0, 0.0]]), rules.identity(1))
        assert not check(oracle.resealed(whole, parts=(sneaky, whole.parts[1]), gain=5.0)).ok

    def test_a_certificate_without_center_says_so(self, specimens):
        assert specimens["series"].center is None
        assert specimens["series"].radius is None
        assert specimens["series"].limits is None


class TestNeurons:
    def test_relu_block_needs_its_multiplier(self, specimens, oracle):
        node = specimens["neurons"]
        for lam in (np.zeros(2), np.full(2, -1.0), np.array([1.0, -1e-300]), np.full(2, 1e-9)):
            assert not check(oracle.resealed(node, witness={"multiplier1": lam})).ok

    def test_a_shared_multiplier_is_required_of_coupled_neurons(self):
        sort = {"name": "groupsort", "size": 2}
        layers, out = [Layer({0: np.eye(2)}, sort)], Output({1: np.eye(2)})
        good = rules.neurons(layers, out, [np.array([0.6, 0.6])], 1.2, in_features=2)
        assert check(good).ok
        assert not check(rules.neurons(layers, out, [np.array([0.6, 0.61])], 1.2, in_features=2)).ok

    def test_a_nested_map_counts_with_its_gain(self, oracle):
        inner = rules.linear(0.5 * np.eye(2))
        node = rules.prove_neurons(
            [Layer({0: np.eye(2)}, inner)], Output({1: np.eye(2)}), [np.full(2, 0.5)], 0.5, in_features=2
        )
        assert check(node).ok
        assert node.gain <= 0.5 * (1 + 1e-6)
        worse = rules.linear(0.9 * np.eye(2))
        assert not check(oracle.resealed(node, parts=(worse,))).ok

    def test_prove_neurons_reports_its_slack(self):
        node = rules.prove_neurons(
            [Layer({0: np.eye(2)}, "relu")], Output({1: np.eye(2)}), [np.ones(2)], 1.0, in_features=2
        )
        assert node.gain == pytest.approx(1.0 + node.note["slack"], abs=1e-15)
        assert node.note["slack"] <= 1e-6
        with pytest.raises(NotProvedError, match="no gain"):
            rules.prove_neurons(
                [Layer({0: np.eye(2)}, "relu")], Output({1: np.eye(2)}), [np.ones(2)], 0.9, in_features=2
            )

    @pytest.mark.parametrize("scale", [1e-150, 1e-60, 1.0, 1e60, 1e140])
    def test_magnitudes_far_from_one(self, scale):
        node = rules.prove_neurons(
            [Layer({0: scale * np.eye(2)}, "relu")],
            Output({1: np.eye(2) / scale}),
            [np.full(2, scale**-2)],
            1.0,
            in_features=2,
        )
        assert check(node).ok

    @pytest.mark.parametrize("claim", ["one-sided", "inverse"])
    def test_other_properties_at_their_edge(self, claim):
        """y = -x + relu(x)/2 per entry: slopes in [-1, -1/2]."""
        layers, out = [Layer({0: np.eye(2)}, "relu")], Output({0: -np.eye(2), 1: 0.5 * np.eye(2)})
        edge = {"one-sided": -0.5, "inverse": 0.5}[claim]
        worse = {"one-sided": -0.51, "inverse": 0.51}[claim]
        lam = {"one-sided": 0.25, "inverse": 0.25}[claim]

        def proved(gain: float, multiplier: float) -> bool:
            node = rules.neurons(layers, out, [np.full(2, multiplier)], gain, in_features=2, claim=claim)
            return check(node, route="exact").ok

        grid = np.linspace(0.5 * lam, 4.0 * lam, 36)
        easier = edge + (0.01 if claim == "one-sided" else -0.01)
        assert any(proved(easier, m) for m in grid)
        assert not any(proved(worse, m) for m in grid)


class TestExtremeLinearMaps:
    @pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1e-5, 1.0, 1e100, 1e154, 1e300])
    def test_the_spectral_norm_is_bounded_at_any_scale(self, scale):
        w = scale * np.array([[3.0, 0.0], [4.0, 0.0]])
        cert = rules.linear(w)
        assert check(cert).ok
        assert check(cert, route="exact").ok
        assert cert.gain >= float(np.max(w)) * 1.25 * (1.0 - 1e-15)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3)])
    @pytest.mark.parametrize("kind", ["zero", "rank one", "repeated", "identity"])
    def test_degenerate_matrices(self, shape, kind):
        rng = np.random.default_rng(4)
        w = {
            "zero": np.zeros(shape),
            "rank one": np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])),
            "repeated": np.full(shape, 0.1),
            "identity": np.eye(*shape),
        }[kind]
        cert = rules.linear(w)
        assert check(cert).ok
        assert check(cert, route="exact").ok
        assert cert.gain == pytest.approx(np.linalg.norm(w, 2), rel=1e-9)

    def test_a_zero_map_has_gain_zero_and_no_less(self, oracle):
        zero = rules.linear(np.zeros((2, 2)))
        assert zero.gain == 0.0
        assert not check(oracle.resealed(rules.linear([[5e-324]]), gain=0.0)).ok

    def test_nan_weights_are_refused(self):
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="NaN or inf"):
                rules.linear([[bad]])


def test_check_says_what_it_needs():
    with pytest.raises(TypeError, match="Certificate"):
        check({"gain": 1.0})
    with pytest.raises(ValueError, match="route"):
        check(rules.identity(1), route="fast")
    unknown = Certificate("trust-me", 0.0, 1, 1)
    report = check(unknown)
    assert not report.ok
    assert "unknown rule" in str(report)
    with pytest.raises(ValueError, match="unknown rule"):
        unknown.evaluate(np.zeros(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rules.series(), "at least one part"),
        (lambda: rules.total(), "at least one part"),
        (lambda: rules.concat(), "at least one part"),
        (lambda: rules.parallel(), "at least one part"),
        (lambda: rules.repeat(rules.identity(1), 2.5), "times is 2.5"),
        (lambda: rules.repeat(rules.identity(1), 0), "times is 0"),
        (lambda: rules.series(rules.scaling([1e200]), rules.scaling([1e200])), "beyond the range of float64"),
        (lambda: rules.total(rules.scaling([1.7e308]), coefficients=[1.1]), "beyond the range of float64"),
        (lambda: rules.concat(*[rules.scaling([1.7e308])] * 2), "beyond the range of float64"),
        (lambda: rules.linear(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda: rules.linear(np.zeros((0, 2))), r"shape \(0, 2\)"),
        (lambda: rules.scaling([]), r"shape \(0,\)"),
        (lambda: rules.identity(0), "in_features is 0"),
        (lambda: rules.identity(-1), "in_features is -1"),
        (lambda: rules.identity(1.5), "in_features is 1.5"),
        (lambda: rules.identity(True), "in_features is True"),
    ],
)
def test_what_is_no_map_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
