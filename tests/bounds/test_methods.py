"""Every method against ascent from below, the check, and an independent semidefinite program."""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl
from lipctrl.bounds import read_network
from lipctrl.positivity import NotProvedError

METHODS = ["product", "eclipse-fast", "eclipse", "lipsdp", "auto"]
ACTIVATIONS = {
    "relu": (0.0, 1.0),
    "tanh": (0.0, 1.0),
    "sigmoid": (0.0, 0.25),
    "silu": (-0.0998394, 1.0998394),
    "gelu": (-0.1289044, 1.1289044),
    "abs": (-1.0, 1.0),
}


@pytest.mark.parametrize("activation", [*ACTIVATIONS, {"name": "groupsort", "size": 2}], ids=str)
@pytest.mark.parametrize("sizes", [[2, 4, 1], [3, 8, 8, 2], [4, 6, 6, 6, 6, 4]], ids=str)
def test_every_bound_checks_and_lies_above_the_ascent(given, activation, sizes):
    layers = given.mlp(sizes, seed=len(sizes))
    gains = {}
    for method in METHODS:
        cert = lipctrl.certify(layers, method, activation=activation)
        assert lipctrl.check(cert).ok
        gains[method] = cert.gain
    lower = lipctrl.lipschitz_lower_bound(cert, seed=1)
    assert lower > 0.0
    assert all(lower <= gain for gain in gains.values()), (lower, gains)
    assert gains["lipsdp"] <= gains["eclipse"] * (1 + 1e-5)
    assert gains["eclipse"] <= gains["eclipse-fast"] * (1 + 1e-5)
    assert gains["eclipse-fast"] <= gains["product"] * (1 + 1e-5)
    assert gains["auto"] == gains["lipsdp"]


@pytest.mark.parametrize("method", METHODS)
def test_the_exact_route_proves_small_certificates(given, method):
    cert = lipctrl.certify(given.mlp([2, 4, 4, 2], seed=3), method, activation="tanh")
    assert lipctrl.check(cert, route="exact").ok


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_lipsdp_agrees_with_an_independent_solver(given, activation):
    for seed, sizes in enumerate(([2, 4, 1], [3, 6, 6, 2], [4, 8, 8, 8, 2])):
        layers = given.mlp(sizes, seed)
        ours = lipctrl.certify(layers, "lipsdp", activation=activation).gain
        theirs = given.reference(*given.chain_maps(layers), *ACTIVATIONS[activation])
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_residual_stack_is_one_lmi(given):
    """x → x + B_2 σ(A_2 ·) after x + B_1 σ(A_1 x), against the same LMI assembled by hand."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 5), torch.nn.Linear(5, 3)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    net = torch.nn.Sequential(Block(), Block(), Block()).double()
    a = [block.a.weight.detach().numpy() for block in net]
    b = [block.b.weight.detach().numpy() for block in net]
    drive, output = np.zeros((15, 18)), np.zeros((3, 18))
    for l in range(3):
        drive[5 * l : 5 * l + 5, :3] = a[l]
        for k in range(l):
            drive[5 * l : 5 * l + 5, 3 + 5 * k : 8 + 5 * k] = a[l] @ b[k]
    output[:, :3] = np.eye(3)
    for k in range(3):
        output[:, 3 + 5 * k : 8 + 5 * k] = b[k]
    cert = lipctrl.certify(net, "lipsdp")
    assert cert.gain == pytest.approx(given.reference(drive, output, 3, 0.0, 1.0), rel=1e-4)
    product = lipctrl.certify(net, "product")
    assert cert.gain < 0.9 * product.gain
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain


def test_linear_networks_are_exact_at_any_depth(given):
    layers = given.mlp([3, 7, 7, 2], seed=5)
    whole = layers[2][0] @ layers[1][0] @ layers[0][0]
    for method in METHODS:
        cert = lipctrl.certify(layers, method, activation="identity")
        assert cert.gain == pytest.approx(np.linalg.norm(whole, 2), rel=1e-9)
        assert cert.gain >= np.linalg.norm(whole, 2) * (1 - 1e-14)


def test_the_weights_of_a_certificate_are_the_given_ones():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
    )
    cert = lipctrl.certify(net, "lipsdp")
    stored = {w.tobytes() for w in cert.weights.values()}
    for parameter in net.parameters():
        assert parameter.detach().numpy().astype(np.float64).tobytes() in stored


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("method", METHODS)
def test_scaled_networks(given, scale, method):
    cert = lipctrl.certify(given.mlp([3, 8, 8, 2], 1, scale), method, activation="relu")
    unit = lipctrl.certify(given.mlp([3, 8, 8, 2], 1), method, activation="relu")
    assert cert.gain == pytest.approx(unit.gain * scale**3, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind", ["zero layer", "zero output", "rank one", "repeated", "dead neuron", "no bias"]
)
def test_degenerate_weights(method, kind):
    rng = np.random.default_rng(0)
    w1, w2, w3 = rng.standard_normal((5, 3)), rng.standard_normal((5, 5)), rng.standard_normal((2, 5))
    if kind == "zero layer":
        w2 = np.zeros((5, 5))
    elif kind == "zero output":
        w3 = np.zeros((2, 5))
    elif kind == "rank one":
        w2 = np.outer(w2[0], w2[1])
    elif kind == "repeated":
        w1 = np.repeat(w1[:1], 5, axis=0)
    elif kind == "dead neuron":
        w1[2], w2[:, 3], w3[:, 1] = 0.0, 0.0, 0.0
    layers = [w1, w2, w3] if kind == "no bias" else [(w, rng.standard_normal(len(w))) for w in (w1, w2, w3)]
    cert = lipctrl.certify(layers, method, activation="relu")
    assert lipctrl.check(cert).ok
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain
    if kind.startswith("zero"):
        assert cert.gain <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_barrier_method_converges_on_five_layers_of_64(given, activation):
    layers = given.mlp([10, 64, 64, 64, 64, 64, 4], seed=2)
    cert = lipctrl.certify(layers, "lipsdp", activation=activation)
    assert cert.note["relative gap"] < 1e-6
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain


@pytest.mark.parametrize("depth", [5, 30, 100])
def test_deep_networks_check(given, depth):
    layers = given.mlp([4, *[8] * depth, 2], seed=1)
    fast = lipctrl.certify(layers, "eclipse-fast", activation="relu")
    assert lipctrl.check(fast).ok
    assert fast.gain < lipctrl.certify(layers, "product", activation="relu").gain
    assert lipctrl.certify(layers, "eclipse", activation="relu").gain <= fast.gain * (1 + 1e-9)


class TestLocal:
    @pytest.mark.parametrize(
        "activation", ["relu", "tanh", "silu", {"name": "leaky_relu", "slope": 0.2}], ids=str
    )
    def test_local_bounds_are_sound_and_shrink(self, given, activation):
        layers = given.mlp([3, 10, 10, 2], seed=4)
        everywhere = lipctrl.certify(layers, activation=activation)
        last = everywhere.gain
        for radius in (1.0, 0.1, 1e-3):
            cert = lipctrl.certify(layers, "local", region=(-radius, radius), activation=activation)
            assert lipctrl.check(cert).ok
            assert cert.gain <= last * (1 + 1e-5)
            assert lipctrl.lipschitz_lower_bound(cert, region=(-radius, radius)) <= cert.gain
            last = cert.gain
        assert last < 0.8 * everywhere.gain

    def test_a_tiny_box_is_nearly_exact(self, given):
        layers = given.mlp([3, 10, 10, 2], seed=4)
        cert = lipctrl.certify(layers, "local", region=(-1e-3, 1e-3), activation="tanh")
        lower = lipctrl.lipschitz_lower_bound(cert, region=(-1e-3, 1e-3))
        assert cert.gain <= lower * 1.02

    @pytest.mark.parametrize(
        "activation", ["tanh", "sigmoid", "softplus", "elu", "silu", "gelu", "arctan", "softsign"]
    )
    @pytest.mark.parametrize("radius", [1e-3, 1e-4, 1e-6, 1e-9, 0.0])
    def test_a_shrinking_box_ends_in_the_jacobian(self, given, activation, radius):
        """A neuron of nearly one slope is a line and a remainder; as an inequality it has no interior to speak of."""
        layers = given.mlp([4, 16, 16, 2], seed=0)
        cert = lipctrl.certify(layers, "local", region=(0.3 - radius, 0.3 + radius), activation=activation)
        assert lipctrl.check(cert).ok
        step = 1e-5 * np.eye(4)
        jacobian = (cert.evaluate(0.3 + step) - cert.evaluate(0.3 - step)) / 2e-5
        norm = np.linalg.norm(jacobian, 2)
        assert norm * (1.0 - 1e-7) <= cert.gain <= norm * (1.0 + 1e-6 + 20.0 * radius)

    def test_narrow_and_wide_neurons_share_a_layer(self, given):
        rng = np.random.default_rng(0)
        layers = [(rng.standard_normal((6, 2)), np.array([0.0, 0.1, 9.0, 12.0, 15.0, -20.0])), np.eye(6)[:3]]
        layers.append((rng.standard_normal((2, 3)), np.zeros(2)))
        for method in ("local", "eclipse-fast"):
            cert = lipctrl.certify(layers, method, region=(-1.0, 1.0), activation=["elu", "softplus"])
            assert lipctrl.check(cert).ok
            assert lipctrl.lipschitz_lower_bound(cert, region=(-1.0, 1.0)) <= cert.gain

    def test_a_ball_is_its_box(self, given):
        layers = given.mlp([2, 6, 1], seed=4)
        ball = lipctrl.certify(layers, region={"center": [0.5, 0.0], "radius": 0.1}, activation="tanh")
        assert (ball.region[0] <= [0.4, -0.1]).all()
        assert (ball.region[1] >= [0.6, 0.1]).all()

    @pytest.mark.parametrize(
        "region", [3.0, (1.0, -1.0), (0.0, np.nan), {"center": 0.0}, ([0, 0, 0], [1, 1, 1])]
    )
    def test_bad_regions_are_refused(self, given, region):
        with pytest.raises(ValueError, match="region"):
            lipctrl.certify(given.mlp([2, 3, 1]), region=region, activation="relu")

    def test_local_needs_a_region(self, given):
        with pytest.raises(ValueError, match="region"):
            lipctrl.certify(given.mlp([2, 3, 1]), "local", activation="relu")


class TestProperties:
    def test_linear_maps_have_known_constants(self):
        a = np.array([[-2.0, 1.0], [0.0, -1.0]])
        layers = [a]
        side = lipctrl.certify(layers, "lipsdp", property="one-sided")
        assert side.gain == pytest.approx(np.linalg.eigvalsh(0.5 * (a + a.T))[-1], abs=1e-8)
        inverse = lipctrl.certify(layers, "lipsdp", property="inverse")
        assert inverse.gain == pytest.approx(np.linalg.norm(a, -2), rel=1e-8)

    def test_bounds_of_a_perturbed_identity_hold(self):
        torch = pytest.importorskip("torch")
        torch.manual_seed(2)

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = torch.nn.Linear(3, 8), torch.nn.Linear(8, 3)

            def forward(self, x):
                return -2.0 * x + self.b(torch.tanh(self.a(x)))

        net = Net()
        side = lipctrl.certify(net, property="one-sided")
        inverse = lipctrl.certify(net, property="inverse")
        upper = lipctrl.certify(net)
        assert side.gain < 0.0
        assert 0.0 < inverse.gain < upper.gain
        assert (side.claim, inverse.claim) == ("one-sided", "inverse")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((4000, 3))
        other = x + rng.standard_normal((4000, 3)) * 10.0 ** rng.uniform(-2, 1, (4000, 1))
        dx, dy = x - other, side.evaluate(x) - side.evaluate(other)
        square = (dx**2).sum(axis=1)
        assert ((dx * dy).sum(axis=1) / square).max() <= side.gain
        ratio = np.sqrt((dy**2).sum(axis=1) / square)
        assert ratio.min() >= inverse.gain
        assert ratio.max() <= upper.gain

    def test_a_map_that_is_not_injective_has_no_inverse_bound(self):
        with pytest.raises(NotProvedError, match="inverse"):
            lipctrl.certify([np.eye(2), np.eye(2)], "lipsdp", activation="relu", property="inverse")

    def test_rectangular_maps_are_refused(self, given):
        for name in ("one-sided", "inverse"):
            with pytest.raises(ValueError, match="square"):
                lipctrl.certify(given.mlp([2, 3, 1]), activation="relu", property=name)


class TestInfinityNorm:
    def test_comparison_is_sound_and_never_worse_than_the_product(self, given):
        for activation in ("relu", "tanh", {"name": "groupsort", "size": 2}):
            layers = given.mlp([3, 8, 8, 2], seed=6)
            cert = lipctrl.certify(layers, activation=activation, norm="linf")
            product = lipctrl.certify(layers, "product", activation=activation, norm="linf")
            assert lipctrl.check(cert).ok
            assert cert.gain <= product.gain * (1 + 1e-12)
            x = np.random.default_rng(0).standard_normal((2000, 3))
            d = 0.1 * np.random.default_rng(1).standard_normal((2000, 3))
            rise = np.abs(cert.evaluate(x + d) - cert.evaluate(x)).max(axis=1)
            assert (rise <= cert.gain * np.abs(d).max(axis=1) + 1e-12).all()

    def test_other_properties_have_no_linf_bound(self, given):
        with pytest.raises(ValueError, match="linf"):
            lipctrl.certify(given.mlp([2, 3, 2]), activation="relu", norm="linf", property="inverse")


class TestRanges:
    @pytest.mark.parametrize("method", ["interval", "linear", "crown"])
    def test_ranges_hold(self, given, method):
        layers = given.mlp([3, 10, 10, 2], seed=7)
        low, high = lipctrl.bounds.output_range(layers, -0.3, 0.5, method, activation="tanh")
        x = np.random.default_rng(0).uniform(-0.3, 0.5, (5000, 3))
        y = read_network(layers, "tanh")(x)
        assert (y >= low).all()
        assert (y <= high).all()

    def test_linear_is_never_worse(self, given):
        layers = given.mlp([3, 10, 10, 2], seed=7)
        loose = lipctrl.bounds.output_range(layers, -0.3, 0.5, "interval", activation="relu")
        sharp = lipctrl.bounds.output_range(layers, -0.3, 0.5, "linear", activation="relu")
        assert (sharp[0] >= loose[0]).all()
        assert (sharp[1] <= loose[1]).all()
        assert (sharp[1] - sharp[0] < 0.7 * (loose[1] - loose[0])).all()

    def test_back_substitution_is_never_worse(self, given):
        layers = given.mlp([3, 10, 10, 2], seed=7)
        linear = lipctrl.bounds.output_range(layers, -0.3, 0.5, "linear", activation="tanh")
        crown = lipctrl.bounds.output_range(layers, -0.3, 0.5, activation="tanh")
        assert (crown[0] >= linear[0]).all()
        assert (crown[1] <= linear[1]).all()
        assert (crown[1] - crown[0] < 0.95 * (linear[1] - linear[0])).all()

    def test_unknown_methods_are_refused(self, given):
        with pytest.raises(ValueError, match="interval"):
            lipctrl.bounds.output_range(given.mlp([2, 2]), 0, 1, "magic")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"method": "lipsdpp"}, "method"),
        ({"property": "nice"}, "property"),
        ({"norm": "l1"}, "norm"),
        ({"activation": None}, "activation"),
        ({"activation": "swish9"}, "unknown activation"),
        ({"activation": ["relu", "relu"]}, "2 activations"),
    ],
)
def test_bad_arguments_are_named(given, arguments, word):
    with pytest.raises(ValueError, match=word):
        lipctrl.certify(given.mlp([2, 3, 1]), **{"activation": "relu", **arguments})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_infinite_weights_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or inf"):
        lipctrl.certify([(np.array([[bad]]), [0.0])])
    with pytest.raises(ValueError, match="NaN or inf"):
        lipctrl.certify([(np.array([[1.0]]), [bad])])


def test_shapes_that_do_not_fit_are_refused():
    for layers in ([], [np.ones(3)], [np.ones((2, 3)), np.ones((2, 3))], [(np.ones((2, 3)), np.ones(3))]):
        with pytest.raises(ValueError, match=r"shape|empty"):
            lipctrl.certify(layers, activation="relu")
    with pytest.raises(TypeError, match="torch module"):
        lipctrl.certify(3.0)
