"""Trainings that are stopped, by whomever: nothing reported as saved is lost, and the message says what that is."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest
import torch
from short_runs import Killed, same, short_run, weights

import lipctrl
from lipctrl.runs import RunError, Schedule, load_run
from lipctrl.runs.files import write_bytes
from lipctrl.runs.folder import RunWriter
from lipctrl.training import EnvironmentFailedError, TrainingDivergedError


def test_ctrl_c_saves_and_the_run_goes_on_from_there(tmp_path):
    # A test run in the background starts with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(checkpoint):
        if checkpoint.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    whole = short_run(tmp_path / "whole", "ppo")
    with pytest.raises(KeyboardInterrupt):
        short_run(tmp_path / "run", "ppo", callbacks=[interrupt])
    assert load_run(tmp_path / "run").metrics["iteration"].tolist() == [1, 2]
    resumed = short_run(tmp_path / "run", "ppo", policy=None, resume=True)
    assert same(weights(whole.path), weights(resumed.path))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_saved(tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = RunWriter.log

    def twice(self, row):
        log(self, row)
        if row["iteration"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunWriter, "log", twice)
    with pytest.raises(KeyboardInterrupt, match=r"^saved up to iteration 2 of 6$"):
        short_run(tmp_path / "run")
    monkeypatch.setattr(RunWriter, "log", log)
    resumed = short_run(tmp_path / "run", policy=None, resume=True)
    assert same(weights(short_run(tmp_path / "whole").path), weights(resumed.path))


def test_ctrl_c_during_the_last_evaluation_stops_it_and_resume_evaluates(tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session = sys.modules["lipctrl.runs.session"]
    run_episodes = session.evaluate

    def interrupted(policy, task, *, episodes, **arguments):
        if episodes == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return run_episodes(policy, task, episodes=episodes, **arguments)

    monkeypatch.setattr(session, "evaluate", interrupted)
    schedule = Schedule(2, 2, 4, evaluation_episodes=3)
    with pytest.raises(KeyboardInterrupt, match="its evaluation has not"):
        short_run(tmp_path / "run", schedule=schedule)
    monkeypatch.setattr(session, "evaluate", run_episodes)
    assert short_run(tmp_path / "run", policy=None, resume=True, schedule=None).evaluation["episodes"] == 3


def test_a_failing_environment_stops_the_training_and_the_message_names_what_is_kept(tmp_path, monkeypatch):
    from lipctrl.training.rollout import PlantSimulator

    step, iterations = PlantSimulator.step, []

    def failing(self, action):
        iterations.append(0)
        if len(iterations) > 8 * 3 + 2:
            raise EnvironmentFailedError("the environment X failed in step: KeyError: 'joint'")
        return step(self, action)

    def interrupt(checkpoint):
        # The first iteration is saved out of turn: the message is to name that one.
        if checkpoint.iteration == 0:
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    rare = Schedule(10, 10, 4, 4)
    with pytest.raises(KeyboardInterrupt, match="iteration 1 of 6"):
        short_run(tmp_path / "run", callbacks=[interrupt], schedule=rare)
    monkeypatch.setattr(PlantSimulator, "step", failing)
    with pytest.raises(
        EnvironmentFailedError, match=r"'joint' in iteration 5; .* of iteration 1, with its weights"
    ):
        short_run(tmp_path / "run", policy=None, resume=True, schedule=rare)
    monkeypatch.setattr(PlantSimulator, "step", step)
    assert short_run(tmp_path / "run", policy=None, resume=True).metrics["iteration"][-1] == 6


def test_a_run_killed_before_its_first_checkpoint_is_started_again(tmp_path, monkeypatch):
    save = RunWriter.save_checkpoint

    def dying(self, state, iteration):
        raise Killed

    monkeypatch.setattr(RunWriter, "save_checkpoint", dying)
    with pytest.raises(Killed):
        short_run(tmp_path / "run")
    monkeypatch.setattr(RunWriter, "save_checkpoint", save)
    with pytest.raises(RunError, match="before its first checkpoint; start it again without resume"):
        short_run(tmp_path / "run", policy=None, resume=True)
    assert short_run(tmp_path / "run").metrics["iteration"][-1] == 6
    # A folder that has lost its checkpoints, and not its metrics, is somebody's run.
    for path in tmp_path.glob("run/checkpoint*"):
        path.unlink()
    with pytest.raises(RunError, match="already holds a run"):
        short_run(tmp_path / "run")


def test_nan_rewards_stop_with_the_last_good_state(tmp_path, monkeypatch):
    from lipctrl.training.rollout import PlantSimulator

    step, calls = PlantSimulator.step, []

    def poisoned(self, action):
        calls.append(0)
        result = step(self, action)
        if len(calls) > 8 * 4 + 3:
            return result._replace(reward=result.reward * float("nan"))
        return result

    monkeypatch.setattr(PlantSimulator, "step", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"reward became NaN .* iteration 5;.*of iteration 4"):
        short_run(tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert all(torch.isfinite(v).all() for v in run.policy.state_dict().values())
    assert lipctrl.check(run.certificate).ok
    monkeypatch.setattr(PlantSimulator, "step", step)
    assert short_run(tmp_path / "run", policy=None, resume=True).metrics["iteration"].tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, monkeypatch):
    run = short_run(tmp_path / "run", iterations=2)
    kept = {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"the disk is full.*intact.*resume"):
        write_bytes(run.path / "weights.safetensors", b"new")
    with pytest.raises(RunError, match="the disk is full"):
        RunWriter(run.path).save_policy(run.policy, run.certificate)
    assert {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()} == kept
