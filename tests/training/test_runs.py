"""Run folders: whole at any moment, exact when continued, and clear about what is damaged."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import control
import numpy as np
import pytest
import torch
from short_runs import ENV, GAIN, SMALL, Killed, same, short_run, small_policy, weights
from typer.testing import CliRunner

import lipctrl
from lipctrl import check, rules
from lipctrl.cli.app import app
from lipctrl.runs import RunError, Schedule, StabilityGuarantee, files, load_run, session
from lipctrl.runs.files import read_tensors, write_json, write_tensors
from lipctrl.runs.folder import RunWriter
from lipctrl.runs.guarantee import GuaranteeBrokenError
from lipctrl.runs.state import flatten, unflatten
from lipctrl.training import evaluate


def test_weights_and_certificate_of_two_runs_do_not_pass_for_one(tmp_path):
    """Equal shapes load, and the certificate proves, about a policy that is not the one in the folder."""
    runs = [short_run(tmp_path / str(seed), iterations=1, policy=small_policy(seed)) for seed in (0, 1)]
    own, other = (run.path for run in runs)
    shutil.copy(other / "weights.safetensors", own / "weights.safetensors")
    found = load_run(own)
    with pytest.raises(RunError, match="exchanged, or a training was killed"):
        _ = found.certificate
    assert CliRunner().invoke(app, ["verify", str(own)]).exit_code != 0
    assert CliRunner().invoke(app, ["certify", str(own)]).exit_code == 0
    assert CliRunner().invoke(app, ["verify", str(own)]).exit_code == 0
    assert load_run(own).certificate.digest == found.policy.certificate().digest


def test_weights_that_name_no_certificate_are_read_as_before(tmp_path):
    run = short_run(tmp_path / "run", iterations=1)
    write_tensors(run.path / "weights.safetensors", run.policy.state_dict())
    assert check(load_run(run.path).certificate).ok


@pytest.mark.parametrize("algorithm", list(SMALL))
def test_a_run_folder_gives_back_the_policy_that_was_trained(tmp_path, algorithm):
    policy = small_policy()
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    run = short_run(tmp_path / "run", algorithm, policy=policy)
    assert not same(before, policy.state_dict())
    again = load_run(tmp_path / "run")
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.policy(y), policy(y))
        np.testing.assert_allclose(run.certificate.evaluate(y.numpy()), policy(y).numpy(), atol=1e-5)
    assert lipctrl.check(again.certificate).ok
    assert again.certificate.radius <= 1.0 * (1 + 1e-3)
    assert again.metrics["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(again.metrics["validation_return"][1::2]).all()
    assert again.evaluation["episodes"] == 4
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_policy_that_training_only_made_worse_is_given_back_as_it_was(tmp_path, monkeypatch):
    policy, falls = small_policy(), itertools.count()
    before = {k: v.clone() for k, v in policy.state_dict().items()}

    def worse_every_time(*arguments, **options):
        found = evaluate(*arguments, **options)
        return dataclasses.replace(found, returns=found.returns - 1000.0 * next(falls))

    monkeypatch.setattr(session, "evaluate", worse_every_time)
    run = short_run(tmp_path / "run", "ppo", policy=policy)
    assert same(before, weights(run.path))
    assert next(falls) == 5  # before the first iteration, after every second, and the unseen episodes


@pytest.mark.parametrize("algorithm", list(SMALL))
@pytest.mark.parametrize("killed_at", [1, 3, 4])
def test_a_killed_run_continues_bit_by_bit(tmp_path, monkeypatch, algorithm, killed_at):
    whole = short_run(tmp_path / "whole", algorithm)
    log = RunWriter.log

    def dying(self, row):
        log(self, row)
        if row["iteration"] == killed_at:
            raise Killed

    monkeypatch.setattr(RunWriter, "log", dying)
    with pytest.raises(Killed):
        short_run(tmp_path / "killed", algorithm)
    monkeypatch.setattr(RunWriter, "log", log)
    resumed = short_run(tmp_path / "killed", algorithm, policy=None, resume=True)
    assert same(weights(whole.path), weights(resumed.path))
    assert whole.evaluation["returns"] == resumed.evaluation["returns"]
    for name, column in whole.metrics.items():
        if name not in ("seconds", "steps_per_second"):
            np.testing.assert_array_equal(column, resumed.metrics[name], err_msg=name)


SCRIPT = """
import sys
from tests.training import test_runs as t
import lipctrl, torch
from lipctrl.runs import Schedule
from lipctrl.training import PPOConfig
policy = None
if sys.argv[2] == "new":
    torch.manual_seed(1)
    net = lipctrl.LipschitzResNet(3, 1, lipschitz=10.0, width=8, depth=1)
    policy = lipctrl.LipschitzPolicy(net, action_limits=2.0)
lipctrl.train("Pendulum-v1", policy, "ppo", 30 * 8 * 16, 3, "cpu", sys.argv[1], sys.argv[2] == "resume",
    config=PPOConfig(environments=8, horizon=16, epochs=2, value_width=8) if policy else None,
    schedule=Schedule(5, 5, 4, 4) if policy else None, progress=False)
"""


@pytest.mark.slow
def test_kill_minus_nine_and_resume_equals_the_unkilled_run(tmp_path):
    def start(folder, mode):
        code = SCRIPT.replace("from tests.training import test_runs as t\n", "")
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder), mode], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    assert start(tmp_path / "whole", "new").wait(300) == 0
    process = start(tmp_path / "killed", "new")
    metrics = tmp_path / "killed" / "metrics.csv"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 8):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "evaluation.json").exists()
    assert start(tmp_path / "killed", "resume").wait(300) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert (
        load_run(tmp_path / "whole").evaluation["returns"]
        == load_run(tmp_path / "killed").evaluation["returns"]
    )


@pytest.mark.parametrize("killed_at", [0, 3])
def test_black_boxes_continue_bit_by_bit_too(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("lipctrl.training.environments.TWINS", {})

    def run(out, **arguments):
        torch.manual_seed(0)
        policy = lipctrl.LipschitzPolicy(lipctrl.LipschitzResNet(3, 1, lipschitz=5.0, width=8, depth=1))
        arguments = {"policy": policy, "config": SMALL["ppo"], "schedule": Schedule(10, 2, 2, 2), **arguments}
        return lipctrl.train(
            "Pendulum-v1", algorithm="ppo", steps=5 * 64, out=out, progress=False, **arguments
        )

    whole = run(tmp_path / "whole")
    # The first checkpoint is saved before any iteration, and before the first validation.
    name = "save_checkpoint" if killed_at == 0 else "log"
    kept = getattr(RunWriter, name)

    def dying(self, row, *rest):
        kept(self, row, *rest)
        if row["iteration"] == killed_at:
            raise Killed

    monkeypatch.setattr(RunWriter, name, dying)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    monkeypatch.setattr(RunWriter, name, kept)
    resumed = run(tmp_path / "killed", policy=None, resume=True)
    assert same(weights(whole.path), weights(resumed.path))
    # The best weights may be those before the first iteration, which tell nothing of what came after.
    assert whole.metrics["policy_loss"].tolist() == resumed.metrics["policy_loss"].tolist()


def test_halves_of_files_that_a_kill_left_are_removed_when_the_run_goes_on(tmp_path):
    short_run(tmp_path / "run", iterations=2)
    half, other = tmp_path / "run/checkpoint.safetensors.0a1b2c3d.tmp", tmp_path / "run/notes.tmp"
    half.write_bytes(b"half")
    other.write_bytes(b"not ours")
    short_run(tmp_path / "run", iterations=4, resume=True)
    assert not half.exists()
    assert other.exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(tmp_path):
    run = short_run(tmp_path / "run")
    path = run.path / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"checkpoint .* is damaged.*of iteration 4, is intact.*mv "):
        short_run(run.path, policy=None, resume=True, iterations=8)
    (run.path / "checkpoint.previous.safetensors").rename(path)
    assert short_run(run.path, policy=None, resume=True, iterations=8).metrics["iteration"][-1] == 8
    path.unlink()
    (run.path / "checkpoint.previous.safetensors").unlink()
    with pytest.raises(RunError, match=r"missing.*No other checkpoint is intact"):
        short_run(run.path, policy=None, resume=True)


@pytest.mark.parametrize("algorithm", list(SMALL))
def test_double_precision_trains_and_stays_when_it_goes_on(tmp_path, algorithm):
    whole = short_run(tmp_path / "whole", algorithm, policy=small_policy().to(torch.float64), iterations=4)
    assert {v.dtype for v in weights(whole.path).values()} == {torch.float64}
    short_run(tmp_path / "run", algorithm, policy=small_policy().to(torch.float64), iterations=2)
    resumed = short_run(tmp_path / "run", algorithm, policy=None, resume=True, iterations=2)
    assert {v.dtype for v in weights(resumed.path).values()} == {torch.float64}
    assert next(resumed.policy.parameters()).dtype is torch.float64


def test_a_callback_that_raises_stops_after_the_save(tmp_path):
    def stop(checkpoint):
        if checkpoint.iteration == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        short_run(tmp_path / "run", callbacks=[stop])
    assert RunWriter(tmp_path / "run").load_checkpoint()["iteration"] == 4


def test_experts_answer_in_actions(tmp_path):
    with pytest.raises(ValueError, match=r"the expert returned actions of shape \(4, 2\).*expected \(4, 1\)"):
        short_run(tmp_path / "run", "imitation", expert=lambda state: state)


def test_an_actuator_without_limits_survives_the_folder(tmp_path):
    arguments = {"env_options": {"action_limit": np.inf, "disturbance": (0.0,)}}
    run = short_run(tmp_path / "run", iterations=1, **arguments)
    assert load_run(run.path).config["env_options"] == {"action_limit": np.inf, "disturbance": [0.0]}
    assert "Infinity" not in (run.path / "config.json").read_text()
    resumed = short_run(run.path, policy=None, resume=True, iterations=2, **arguments)
    assert resumed.metrics["iteration"].tolist() == [1, 2]


def test_a_folder_is_never_overwritten_and_never_continued_as_something_else(tmp_path):
    short_run(tmp_path / "run", iterations=1)
    with pytest.raises(RunError, match="already holds a run"):
        short_run(tmp_path / "run")
    with pytest.raises(RunError, match="seed=0, and 1 was given"):
        short_run(tmp_path / "run", policy=None, resume=True, seed=1)
    with pytest.raises(RunError, match="not a folder"):
        short_run(tmp_path / "elsewhere", policy=None, resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithm": "magic"}, "algorithm is 'magic'; expected auto or one of apg, ppo, imitation"),
        ({"policy": None}, "policy is None"),
        ({"policy": torch.nn.Linear(2, 1)}, "policy is a Linear; expected a ResidualPolicy"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10.5}, "steps is 10.5; expected a whole number"),
        ({"steps": "10"}, "steps is '10'; expected a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"config": SMALL["ppo"]}, "apg takes a APGConfig"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    call = {"policy": small_policy(), "out": tmp_path / "run", **arguments}
    with pytest.raises(ValueError, match=message):
        lipctrl.train(ENV, **call)
    assert not (tmp_path / "run").exists()


def test_steps_may_be_a_number_of_numpy(tmp_path):
    run = lipctrl.train(
        ENV,
        small_policy(),
        "apg",
        np.int64(1),
        out=tmp_path / "run",
        schedule=Schedule(evaluation_episodes=2, validation_episodes=2),
        progress=False,
    )
    assert run.config["steps"] == 1


def test_policies_of_other_dimensions_are_refused(tmp_path):
    policy = lipctrl.LipschitzPolicy(lipctrl.LipschitzResNet(3, 1, width=4))
    with pytest.raises(ValueError, match=r"in_features=3; .* needs 2"):
        lipctrl.train(ENV, policy, out=tmp_path / "run")


def test_the_guarantee_is_proved_at_every_checkpoint(tmp_path):
    guarantee = StabilityGuarantee(np.array(GAIN), 1.5)
    run = short_run(tmp_path / "run", guarantee=guarantee)
    ratios = run.metrics["guarantee"][1::2]
    assert (ratios > 1.4).all()
    assert (ratios < 1.6).all()
    with pytest.raises(GuaranteeBrokenError, match=r"not below the stability radius 0\.5"):
        short_run(tmp_path / "too-large", guarantee=StabilityGuarantee(np.array(GAIN), 0.5))
    with pytest.raises(GuaranteeBrokenError, match="away from the gain K"):
        short_run(tmp_path / "other-gain", guarantee=StabilityGuarantee(np.array([[15.0, 4.0]]), 1.5))


def test_a_gain_rounded_to_float32_stays_guaranteed_and_its_shift_counts():
    gain = np.array([[15.1, 5.3]])
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=8, depth=1)
    certificate = lipctrl.ResidualPolicy(gain, network).certificate()
    shift = np.linalg.norm(certificate.center + gain)
    assert 0.0 < shift < 1e-6
    assert StabilityGuarantee(gain, 2.0).prove(certificate) <= 2.0 / (certificate.radius + shift)
    # Room for the residual, and not for the shift as well.
    with pytest.raises(GuaranteeBrokenError, match="the policy's own gain"):
        StabilityGuarantee(gain, certificate.radius + 0.5 * shift).prove(certificate)
    with pytest.raises(GuaranteeBrokenError, match=r"1\.\d+ away from the gain"):
        StabilityGuarantee(gain + 1.0, 2.0).prove(certificate)
    with pytest.raises(GuaranteeBrokenError, match="shape"):
        StabilityGuarantee(gain[:, :1], 2.0).prove(certificate)


def test_a_guarantee_in_scales_counts_each_observation_in_its_size():
    gain, sizes = np.array([[1.0, 20.0]]), np.array([4.0, 0.125])
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=8, depth=1)
    policy = lipctrl.ResidualPolicy(gain, network, observation_scale=sizes)
    certificate = policy.certificate()
    assert certificate.radius == pytest.approx(8.0, rel=1e-3)
    guarantee = StabilityGuarantee(gain, 1.5, sizes)
    assert guarantee.prove(certificate) == pytest.approx(1.5, rel=1e-3)
    with pytest.raises(GuaranteeBrokenError, match=r"not below the stability radius 1\.5"):
        StabilityGuarantee(gain, 1.5).prove(certificate)
    # Other sizes: what the policy's own scales say in these units.
    assert StabilityGuarantee(gain, 1.5, 0.5 * sizes).prove(certificate) == pytest.approx(3.0, rel=1e-3)
    assert StabilityGuarantee(gain, 9.0, [1.0, 1.0]).prove(certificate) == pytest.approx(9.0 / 8.0, rel=1e-3)
    # A gain that differs by δ in the first channel is away by δ times its size.
    shifted = lipctrl.ResidualPolicy(
        gain + np.array([[0.25, 0.0]]), network, observation_scale=sizes
    ).certificate()
    with pytest.raises(GuaranteeBrokenError, match="1 away from the gain"):
        guarantee.prove(shifted)
    again = StabilityGuarantee.from_dict(json.loads(json.dumps(guarantee.to_dict())))
    assert again.prove(certificate) == guarantee.prove(certificate)
    old = {"gain": gain.tolist(), "radius": 9.0}
    assert StabilityGuarantee.from_dict(old).observation_scale is None
    # Actions have sizes too: at half the size of the only action the policy is twice as far from its centre.
    smaller = StabilityGuarantee(gain, 3.0, sizes, np.array([0.5]))
    assert smaller.prove(certificate) == pytest.approx(1.5, rel=1e-3)
    with pytest.raises(ValueError, match="powers of two"):
        StabilityGuarantee.of(control.ss([[-1.0]], [[1.0]], [[1.0], [1.0]], 0), gain, [3.0, 1.0])


def test_a_guarantee_from_damaged_numbers_proves_nothing():
    gain = np.array([[1.0, 20.0]])
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=8, depth=1)
    certificate = lipctrl.ResidualPolicy(gain, network, observation_scale=[4.0, 0.125]).certificate()
    for broken in (math.nan, math.inf):
        with pytest.raises(GuaranteeBrokenError):
            StabilityGuarantee(np.array([[1.0, broken]]), 99.0).prove(certificate)
    with pytest.raises(GuaranteeBrokenError):
        StabilityGuarantee(gain, math.nan, [4.0, 0.125]).prove(certificate)
    for sizes in ([4.0, -0.125], [3.0, 0.125], [4.0, math.nan], [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="powers of two"):
            StabilityGuarantee(gain, 1.5, sizes).prove(certificate)
    # A shift whose square is no float64 counts as any other.
    tiny = rules.centered([[1e-170]], rules.scaling([0.9e-170]))
    assert StabilityGuarantee(np.zeros((1, 1)), 2e-170).prove(tiny) < 1.06
    with pytest.raises(GuaranteeBrokenError, match="away from the gain"):
        StabilityGuarantee(np.zeros((1, 1)), 1.5e-170).prove(tiny)


def test_training_stops_early_at_the_target(tmp_path):
    schedule = Schedule(2, 2, 4, 4, target_return=-1e9)
    assert short_run(tmp_path / "run", schedule=schedule).metrics["iteration"].tolist() == [1, 2]
    schedule = Schedule(1, 2, 4, 4, patience=1)
    stopped = short_run(tmp_path / "patient", "imitation", 60, schedule=schedule)
    returns = stopped.metrics["validation_return"]
    assert len(returns) < 60
    assert returns[-1] <= returns[:-1].max()
    assert stopped.config["schedule"]["patience"] == 1


def test_equal_tensors_are_equal_files_and_files_of_the_first_versions_are_read(tmp_path):
    from safetensors.torch import save_file

    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.float64)}
    for number in range(8):
        write_tensors(tmp_path / str(number), tensors, {"iteration": 3})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1
    text = '{"iteration": 3}'
    save_file(
        tensors, tmp_path / "old", metadata={"document": text, "sha256": files._fingerprint(tensors, text)}
    )
    for name in ("old", "0"):
        found, document = read_tensors(tmp_path / name, "weights")
        assert same(found, tensors)
        assert document == {"iteration": 3}


def test_state_survives_the_round_trip_exactly(tmp_path):
    state = {
        "a": [1, 2.5, float("-inf"), None, True, "word"],
        "b": {0: torch.randn(2, generator=torch.Generator().manual_seed(0)), "c": (torch.tensor(3),)},
    }
    tensors, skeleton = flatten(state)
    write_tensors(tmp_path / "x", tensors, skeleton)
    back = unflatten(*read_tensors(tmp_path / "x", "state"))
    assert back["a"] == state["a"]
    assert torch.equal(back["b"][0], state["b"][0])
    assert torch.equal(back["b"]["c"][0], state["b"]["c"][0])
    with pytest.raises(TypeError, match=r"state\.x of type object"):
        flatten({"x": object()})


def test_json_refuses_numbers_that_it_has_not(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
