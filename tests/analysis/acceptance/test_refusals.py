"""Odd arguments end in a ValueError that says what was expected, never in a number or another exception."""

import math

import control
import numpy as np
import pytest

import lipctrl

UNSTABLE = control.tf([1], [1, -1])
STABLE = control.tf([1], [1, 2, 1])
NAN = float("nan")

REFUSED = [
    lambda: lipctrl.stability_radius(UNSTABLE, gain=1j),
    lambda: lipctrl.stability_radius(UNSTABLE, gain=np.array([[3 + 1j]])),
    lambda: lipctrl.stability_radius(UNSTABLE, gain=control.tf([3], [1, 1])),
    lambda: lipctrl.stability_radius(UNSTABLE, gain="a"),
    lambda: lipctrl.max_lipschitz(UNSTABLE, np.array([[3j]])),
    lambda: lipctrl.disk_margin(STABLE, 1.0, skew=None),
    lambda: lipctrl.disk_margin(STABLE, 1.0, skew="a"),
    lambda: lipctrl.disk_margin(STABLE, np.array([[1j]])),
    lambda: lipctrl.hinf_norm(np.array([[1j]])),
    lambda: lipctrl.hinf_norm(np.array([[1 + 0j, NAN]])),
    lambda: lipctrl.zames_falb(STABLE, tolerance=-1.0),
    lambda: lipctrl.zames_falb(STABLE, tolerance=NAN),
    *(
        lambda omega=omega: lipctrl.scaled_relative_graphs(STABLE, (0.0, 1.0), omega=omega)
        for omega in ([NAN], [], [-1.0], [math.inf], "ab", [[1.0], [2.0]])
    ),
    lambda: lipctrl.scaled_relative_graphs(STABLE, (0.0, 1.0), omega_num=0),
    lambda: lipctrl.small_gain(STABLE, -1.0),
    lambda: lipctrl.small_gain(STABLE, NAN),
    lambda: lipctrl.analyze(control.frd([1, 2], [1, 2]), lipctrl.IncrementalBall([[0.0]], 0.1)),
]


@pytest.mark.parametrize("call", REFUSED)
@pytest.mark.filterwarnings("error")
def test_odd_arguments_are_refused_in_words(call):
    with pytest.raises(ValueError, match=r".{20}"):
        call()


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_file_of_noise_is_no_model(tmp_path, suffix):
    pytest.importorskip(suffix[1:])
    path = tmp_path / f"model{suffix}"
    path.write_bytes(bytes(range(97, 161)))
    with pytest.raises(ValueError, match="is not"):
        lipctrl.certify(str(path))
