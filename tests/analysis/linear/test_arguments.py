"""What is passed beside plants and policies: whatever is no such number, list or word is refused in words."""

import inspect
import math

import control
import numpy as np
import pytest

from lipctrl import analysis
from lipctrl.analysis import IncrementalBall, ScaledBall
from lipctrl.analysis.arguments import finite_number, positive_numbers, real_array

PLANT = control.ss([[0.0, 1.0], [2.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
LAG = control.tf([1.0], [1.0, 3.0, 2.0])
SAMPLED = control.ss([[0.5]], [[1.0]], [[1.0]], [[0.0]], 0.1)
K = [[6.0, 3.0]]
BALL = IncrementalBall([[-6.0, -3.0]], 1.0)
SMALL = IncrementalBall([[-0.2]], 0.1)

NOT_NUMBERS = [
    None,
    "a",
    "2",
    b"x",
    math.nan,
    math.inf,
    1j,
    10**400,
    [],
    [[]],
    {},
    object(),
    lambda: 1.0,
    [[1, 2], [3]],
    np.zeros((0, 0)),
    np.zeros((2, 2, 2)),
    np.array([[1 + 1j]]),
    np.array("a"),
    np.ma.masked_array([[1.0, 2.0]], mask=[[True, False]]),
    np.datetime64("2020"),
    LAG,
    control.ss([], [], [], [[1.0]]),
]
NUMBERS = {
    "circle_criterion": lambda x: analysis.circle_criterion(LAG, (0.0, x)),
    "diagonal_slope": lambda x: analysis.diagonal_slope(LAG, x),
    "disk_margin": lambda x: analysis.disk_margin(LAG, 1.0, x),
    "incremental_disk_margin": lambda x: analysis.incremental_disk_margin(LAG, SMALL, x),
    "max_slope": lambda x: analysis.max_slope(LAG, x),
    "small_gain": lambda x: analysis.small_gain(LAG, x),
    "srg": lambda x: analysis.scaled_relative_graphs(LAG, (0.0, x)),
    "structured_gain_margin, limit": lambda x: analysis.structured_gain_margin(LAG, SMALL, limit=x),
    "structured_gain_margin, tolerance": lambda x: analysis.structured_gain_margin(LAG, SMALL, tolerance=x),
    "pade": lambda x: analysis.pade(LAG, x),
    "pade, order": lambda x: analysis.pade(LAG, 0.1, x),
    "ball": lambda x: IncrementalBall([[-0.2]], x),
    "scaled ball": lambda x: ScaledBall([[-0.2]], x),
    "unstable_equilibrium": lambda x: analysis.unstable_equilibrium(SAMPLED, SMALL, factor=x),
    "separating_pair": lambda x: analysis.separating_pair(lambda x, d: x, 1, scale=x),
    "sampled_linearization": lambda x: analysis.sampled_linearization(lambda x, u: x, [0.0], [0.0], dt=x),
}
# None stands for the default in these.
OPTIONAL = {
    "best_gain": lambda x: analysis.best_gain(PLANT, max_gain=x),
    "trade_off, prices": lambda x: analysis.trade_off(PLANT, prices=x),
    "trade_off, weights": lambda x: analysis.trade_off(PLANT, state_weights=x),
    "observation_scale": lambda x: analysis.stability_radius(PLANT, K, observation_scale=x),
    "action_scale": lambda x: ScaledBall([[-0.2]], 0.1, action_scale=x),
    "zames_falb": lambda x: analysis.zames_falb(LAG, tolerance=x),
    "ball, gain": lambda x: IncrementalBall([[-0.2]], 0.1, gain=x),
    "ball, limits": lambda x: IncrementalBall([[-0.2]], 0.1, limits=x),
    "ball, region": lambda x: ScaledBall([[-0.2]], 0.1, region=x),
}
GAINS = {
    "worst_deviation": lambda k: analysis.worst_deviation(PLANT, k),
    "stability_radius": lambda k: analysis.stability_radius(PLANT, k),
    "structured_radius": lambda k: analysis.structured_radius(PLANT, k),
    "max_lipschitz": lambda k: analysis.max_lipschitz(PLANT, k),
    "nominal_loop": lambda k: analysis.nominal_loop(PLANT, k),
    "recentred_ball": lambda k: analysis.recentred_ball(BALL, center=k),
    "best_gain": lambda k: analysis.best_gain(PLANT, start=k),
    "ball": lambda k: analysis.ball_test(PLANT, IncrementalBall(k, 0.1)),
    "pade": lambda k: analysis.pade(PLANT, 0.1).hinf_norm(k),
}
NOT_GAINS = [k for k in NOT_NUMBERS if k is not None] + [
    np.ones((2, 1)),
    np.ones((1, 3)),
    [[math.nan, 1.0]],
    1.0,
]
WORDS = {
    "gain form": lambda w: analysis.incremental_gain_margin(LAG, SMALL, w),
    "phase form": lambda w: analysis.incremental_phase_margin(LAG, SMALL, w),
    "structured form": lambda w: analysis.structured_gain_margin(LAG, SMALL, w),
    "radius field": lambda w: analysis.stability_radius(PLANT, K, w),
    "deviation field": lambda w: analysis.worst_deviation(PLANT, K, w),
    "pade at": lambda w: analysis.pade(LAG, 0.1, at=w),
    "delayed at": lambda w: analysis.delayed(SAMPLED, 1, at=w),
}


def _refused(call, value):
    with pytest.raises(ValueError, match="expected") as caught:
        call(value)
    for foreign in ("could not convert", "inhomogeneous", "ambiguous", "broadcast", "setting an array"):
        assert foreign not in str(caught.value).split(";")[-1]


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused(name):
    for value in NOT_NUMBERS:
        _refused(NUMBERS[name], value)


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_no_positive_number_or_pair_is_refused(name):
    for value in NOT_NUMBERS[1:]:
        _refused(OPTIONAL[name], value)


@pytest.mark.parametrize("name", GAINS)
def test_what_is_no_gain_of_the_loop_is_refused(name):
    for value in NOT_GAINS:
        _refused(GAINS[name], value)


@pytest.mark.parametrize("name", WORDS)
def test_unknown_words_are_refused_and_the_known_ones_named(name):
    for value in ("a", None, 1.0, [], np.zeros((0, 0)), np.zeros((2, 2)), ["policy"], np.array("complex")):
        _refused(WORDS[name], value)


@pytest.mark.parametrize(
    "plant", [None, "a", 10**400, [["a"]], [[None, 1.0]], np.array([[1 + 0j]]), {}, object()]
)
def test_what_is_no_plant_is_refused(plant):
    with pytest.raises(ValueError, match=r"expected control\.StateSpace"):
        analysis.as_realization(plant)


@pytest.mark.parametrize("plants", [None, 1.0, [], LAG, "ab"])
def test_a_hull_needs_a_list_of_models(plants):
    with pytest.raises(ValueError, match="expected a list of at least one model"):
        analysis.hull_test(plants, SMALL)


@pytest.mark.parametrize("order", [0, -1, 2.5, True, 10**6, "a"])
def test_multiplier_orders_are_whole_numbers_that_fit(order):
    with pytest.raises(ValueError, match="expected a whole number from 1 to 1000"):
        analysis.zames_falb(LAG, order=order)


@pytest.mark.parametrize("tries", [0, -1, 2.5, "a", None, True])
def test_counts_of_an_attack_are_whole_numbers(tries):
    with pytest.raises(ValueError, match=r"tries is .*; expected a whole number of at least 1"):
        analysis.periodic_slopes(SAMPLED, SMALL, tries=tries)


def test_numbers_of_any_real_kind_are_read():
    for value in (2, np.float32(2.0), np.int8(2), np.array(2.0), 2.0):
        assert finite_number(value, "x") == 2.0
        assert positive_numbers(value, 2, "x").tolist() == [2.0, 2.0]
    assert real_array(np.array([1, 2], dtype=object)).tolist() == [1.0, 2.0]


def test_limits_and_regions_are_pairs_of_what_the_channels_need():
    ball = IncrementalBall([[-1.0, -2.0]], 0.1, limits=(-1, 2), region=([-1, -2], [1, 2]))
    assert [end.tolist() for end in (*ball.limits, *ball.region)] == [[-1.0], [2.0], [-1.0, -2.0], [1.0, 2.0]]
    for pair in ((1.0, -1.0), ([-1.0, -1.0], [1.0, 1.0]), (-1.0,), (-1.0, 0.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="limits is"):
            IncrementalBall([[-1.0, -2.0]], 0.1, limits=pair)


# These take environments and Lur'e forms as well; all others a linear system, which python-control calls sys.
NOT_ONLY_LINEAR = {"analyze", "as_realization", "basin", "region_of_attraction"}


@pytest.mark.parametrize("name", analysis.__all__)
def test_one_name_stands_for_one_thing(name):
    value = getattr(analysis, name)
    if inspect.isclass(value):
        return
    arguments = set(inspect.signature(value).parameters)
    assert not arguments & {"system", "model", "P"}
    assert ("plant" in arguments) == (name in NOT_ONLY_LINEAR)


@pytest.mark.parametrize(
    "call",
    [
        lambda sys: analysis.ball_test(sys=sys, policy=SMALL),
        lambda sys: analysis.best_gain(sys=sys),
        lambda sys: analysis.diagonal_slope(sys=sys),
        lambda sys: analysis.falsified_gains(sys=sys, policy=SMALL),
        lambda sys: analysis.hinf_optimum(sys=sys),
        lambda sys: analysis.in_own_units(sys=sys, policy=SMALL),
        lambda sys: analysis.loop_step(sys=sys, policy=SMALL),
        lambda sys: analysis.max_lipschitz(sys=sys, gain=1.0),
        lambda sys: analysis.nominal_loop(sys=sys, center=1.0),
        lambda sys: analysis.periodic_slopes(sys=sys, policy=SMALL),
        lambda sys: analysis.popov_criterion(sys=sys),
        lambda sys: analysis.scaled_relative_graphs(sys=sys, slopes=(0.0, 1.0)),
        lambda sys: analysis.srg_discs(sys=sys, centers=[0.0]),
        lambda sys: analysis.structured_gain(sys=sys, policy=SMALL),
        lambda sys: analysis.structured_gain_margin(sys=sys, policy=SMALL),
        lambda sys: analysis.structured_test(sys=sys, policy=SMALL),
        lambda sys: analysis.trade_off(sys=sys),
        lambda sys: analysis.unstable_equilibrium(sys=sys, policy=SMALL),
        lambda sys: analysis.zames_falb(sys=sys),
    ],
)
def test_messages_call_a_system_by_the_name_of_its_argument(call):
    with pytest.raises(ValueError, match=r"^sys has NaN entries in A"):
        call(control.ss([[math.nan]], [[1.0]], [[1.0]], [[0.0]], remove_useless_states=False))
