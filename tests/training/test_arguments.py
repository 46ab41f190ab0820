"""Arguments of the wrong kind are refused in words, with what was received and what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from short_runs import ENV, SMALL, small_policy

import lipctrl
from lipctrl.runs import StabilityGuarantee, build_policy, design_policy, output_gain
from lipctrl.runs.sweeps import Range, sweep
from lipctrl.runs.table import SweepResult
from lipctrl.training import Attack, evaluate, find_task, lqr_gain
from lipctrl.training.arguments import whole_number

WRONG: list[Any] = [None, "a", b"a", 1.5, -1, float("nan"), [], {}, object(), np.zeros((2, 3, 4))]


def refused(call: Any, value: Any, *, but: tuple[Any, ...] = ()) -> None:
    """Require a ValueError that says what was expected."""
    if any(type(value) is type(other) and repr(value) == repr(other) for other in but):
        return
    with pytest.raises(ValueError, match=r"[Ee]xpected|take"):
        call(value)


def act(observation: np.ndarray) -> np.ndarray:
    return -8.0 * observation[:, :1]


@pytest.mark.parametrize("value", WRONG)
def test_runs_and_designs_refuse_what_is_of_another_kind(tmp_path: Path, value: Any) -> None:
    def train(**words: Any) -> None:
        common = {"config": SMALL["apg"], "steps": 1, "progress": False, "out": tmp_path / "run"}
        lipctrl.train(**{"env_id": ENV, "policy": small_policy(), **common, **words})

    system = find_task(ENV).plant.linearize()
    for refusing, but in (
        (lipctrl.load_run, ("a",)),
        (lambda v: train(env_id=v), ("a",)),
        (lambda v: train(policy=v), ()),
        (lambda v: train(algorithm=v), ()),
        (lambda v: train(device=v), ()),
        (lambda v: train(out=v), (None, "a")),
        (lambda v: train(steps=v), (None,)),
        (lambda v: train(schedule=v), (None,)),
        (lambda v: train(config=v), (None,)),
        (lambda v: train(guarantee=v), (None,)),
        (lambda v: train(expert=v), (None,)),
        (lambda v: train(callbacks=v), ([],)),
        (lambda v: train(env_options=v), (None, {})),
        (lambda v: build_policy(ENV, lipschitz=v), (1.5,)),
        (lambda v: build_policy(ENV, kind=v), ()),
        (design_policy, ()),
        (output_gain, ()),
        (lqr_gain, ()),
        (lambda v: StabilityGuarantee.of(system, v), (1.5, -1)),
        (lambda v: StabilityGuarantee.of(system, [[15.0, 5.0]], v), (None,)),
        (StabilityGuarantee.of(system, [[15.0, 5.0]]).prove, ()),
        (StabilityGuarantee.from_dict, ()),
    ):
        refused(refusing, value, but=but)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", WRONG)
def test_evaluations_refuse_what_is_of_another_kind(value: Any) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "num_envs": (None,),
        "env_options": (None, {}),
        "observation_noise": (1.5, []),
        "disturbance": (1.5, []),
        "attack": (None,),
        "gain_scale": (1.5, -1),
    }
    names = ("episodes", "seed", "delay", "max_steps", "device", *allowed)
    for name in names:
        refused(
            lambda v, n=name: evaluate(act, ENV, **{"episodes": 1, n: v}), value, but=allowed.get(name, ())
        )
    refused(Attack, value, but=(1.5,))


@pytest.mark.parametrize("value", WRONG)
def test_sweeps_refuse_what_is_of_another_kind_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr("lipctrl.runs.sweeps.train_one", lambda job: pytest.fail("training has begun"))

    def run(**words: Any) -> None:
        sweep(**{"env_id": ENV, "grid": {"seed": [0]}, "workers": 0, "out": tmp_path / "sweep", **words})

    allowed: dict[str, tuple[Any, ...]] = {
        "grid": (None, {}),
        "random": (None,),
        "address": (None, "a"),
        "settings": (None, {}),
        "env_options": (None, {}),
        "on_result": (None,),
        "lipschitz": (1.5,),
        "steps": (None,),
        "out": ("a",),
    }
    plain = ("algorithm", "workers", "max_retries", "parametrization", "width", "episodes", "sweep_seed")
    for name in (*plain, "evaluation_seed", "env_id", *allowed):
        refused(lambda v, n=name: run(**{n: v}), value, but=allowed.get(name, ()))
    for axis in ("env_id", "algorithm", "parametrization", "width", "seed"):
        refused(lambda v, a=axis: run(grid={a: [v]}), value)
    refused(lambda v: run(grid={"seed": v}), value)
    refused(lambda v: Range(v, 2.0), value, but=(1.5,))
    refused(SweepResult(()).save, value)


@pytest.mark.parametrize("value", ["a", b"a", {}, object(), [["a", 1.0]]])
def test_policies_refuse_what_is_no_number(value: Any) -> None:
    network = lipctrl.LipschitzResNet(2, 1, width=4)
    for words in ({"gain": value}, {"observation_scale": value}, {"action_limits": value}):
        name = next(iter(words))
        with pytest.raises(ValueError, match=f"{name} is .*; expected numbers"):
            lipctrl.ResidualPolicy(**{"gain": [[1.0, 2.0]], "network": network, **words})


def test_an_environment_in_the_place_of_its_plant_is_told_where_the_plant_is() -> None:
    env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")
    with pytest.raises(ValueError, match=r"expected its plant, env\.unwrapped\.plant"):
        lqr_gain(env)
    env.close()


def test_numbers_of_numpy_are_numbers() -> None:
    assert whole_number(np.int64(3), "count") == 3
    assert whole_number(2**63 + 1, "seed") == 2**63 + 1
    assert evaluate(act, ENV, episodes=np.int32(1), delay=np.int64(1)).episodes == 1
    for wrong in (True, float("inf"), 0.5):
        with pytest.raises(ValueError, match=r"count is .*; expected a whole number, at least 0"):
            whole_number(wrong, "count")


def test_files_that_are_not_there_are_named_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name in ("missing.onnx", "missing.safetensors", "folder.onnx"):
        with pytest.raises(FileNotFoundError, match=f"{name} is no file; expected an .onnx or .safetensors"):
            lipctrl.certify(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"missing\.json does not exist; expected a certificate"):
        lipctrl.load_certificate(tmp_path / "missing.json")
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file"):
        lipctrl.load_certificate(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file to write"):
        small_policy().certificate().save(tmp_path)
    for value in (None, 3, b"a"):
        with pytest.raises(ValueError, match=r"path is .*; expected the name of a file"):
            lipctrl.load_certificate(value)
