"""One training under way: iterates, validates, proves the bound at every checkpoint, saves, stops when asked."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lipctrl.certificate import Certificate
from lipctrl.checker import check
from lipctrl.positivity import NotProvedError
from lipctrl.runs.files import write_json
from lipctrl.runs.folder import Run, RunWriter, load_run
from lipctrl.runs.guarantee import StabilityGuarantee
from lipctrl.runs.progress import Progress
from lipctrl.training import Algorithm, Task, TrainingDivergedError, evaluate
from lipctrl.training.environments import EnvironmentFailedError


@dataclass(frozen=True)
class Schedule:
    """When a training evaluates, saves and stops."""

    evaluate_every: int = 10
    """iterations between evaluations on validation seeds"""
    checkpoint_every: int = 10
    """iterations between checkpoints; each proves the bound of the policy as it is then"""
    validation_episodes: int | None = None
    """episodes of each validation; None: 64 for differentiable plants, 8 for black boxes"""
    evaluation_episodes: int = 100
    """unseen episodes after the end"""
    target_return: float | None = None
    """stop as soon as a validation reaches this mean return"""
    patience: int | None = None
    """stop after this many validations without a new best"""
    threads: int = 1
    """CPU threads of torch; one is fastest for small networks, and equal threads give equal bits"""
    evaluation_seed: int | None = None
    """of the unseen episodes after the end; None: a stream of the run's own seed. Equal seeds compare runs fairly"""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name == "target_return":
                number = isinstance(value, int | float) and not isinstance(value, bool)
                fine, wanted = value is None or (number and not math.isnan(value)), "a number or None"
            else:
                none = value is None and name in ("validation_episodes", "patience", "evaluation_seed")
                least = 0 if name == "evaluation_seed" else 1
                fine = none or (isinstance(value, int) and not isinstance(value, bool) and value >= least)
                wanted = f"a whole number, at least {least}"
            if not fine:
                raise ValueError(f"schedule {name} is {value!r}; expected {wanted}")


@dataclass(frozen=True)
class Checkpoint:
    """What a callback sees: the policy as it is at a checkpoint, with its proved certificate."""

    iteration: int
    steps: int
    policy: Any = field(repr=False)
    certificate: Certificate = field(repr=False)
    metrics: Mapping[str, float | int | None] = field(repr=False)


Callback = Callable[[Checkpoint], None]


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C (or SIGTERM) ask for a stop after the iteration; the second one stops at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class Session:
    """One training under way: counters, best weights, checkpoints."""

    def __init__(
        self,
        path: Path,
        task: Task,
        learner: Algorithm,
        schedule: Schedule,
        streams: dict[str, int],
        steps: int,
        guarantee: StabilityGuarantee | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.writer = RunWriter(path)
        self.task, self.learner, self.schedule, self.streams = task, learner, schedule, streams
        self.guarantee, self.callbacks = guarantee, callbacks
        self.total = math.ceil(steps / learner.steps_per_iteration)
        self.iteration = 0
        # The iteration of the last checkpoint, None before the first.
        self.saved: int | None = None
        self.seconds = 0.0
        self.best_return = -math.inf
        self.best_weights = self._weights()
        self.stale = 0
        self.stopped = False
        self._proved: Checkpoint | None = None
        # Validation runs on the copy where there is one (the same dynamics, batched), and never on the final seeds.
        self.trial = task if task.twin is None else dataclasses.replace(task, env_id=task.twin, twin=None)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().clone() for k, v in self.learner.policy.state_dict().items()}

    @property
    def steps(self) -> int:
        return self.iteration * self.learner.steps_per_iteration

    def run(self, progress: bool | None) -> Run:
        with Progress(self.total * self.learner.steps_per_iteration, progress) as bar:
            try:
                with _interruptible() as stop:
                    self._train(bar, stop)
            except TrainingDivergedError as error:
                advice = ". If it is not the environment that gave the number, lower the learning rate"
                raise TrainingDivergedError(self._explain(error) + advice) from error
            except EnvironmentFailedError as error:
                raise EnvironmentFailedError(self._explain(error)) from error
            except KeyboardInterrupt as error:
                saved = () if self.saved is None else (f"saved up to iteration {self.saved} of {self.total}",)
                raise KeyboardInterrupt(*saved) from error
            finally:
                self.writer.close()
            # Everything is saved, so that a Ctrl-C from here on need not wait.
            bar.note("evaluating unseen episodes")
            return self._finish()

    def _train(self, bar: Progress, stop: Callable[[], bool]) -> None:
        """Iterate until the steps are used up or a reason to stop comes; KeyboardInterrupt after a Ctrl-C was saved."""
        if self.iteration == 0:
            # Once: saving moves a black box to new episodes.
            if self.saved is None:
                self._checkpoint({})
            bar.saved(0)
            # The policy that training begins with may stay the best; it does not end the training.
            self._validate()
            self.stale, self.stopped = 0, False
        bar.know(self._bound())
        while self.iteration < self.total and not self.stopped:
            row = self._iterate()
            due = self.iteration % self.schedule.checkpoint_every == 0 or self.iteration == self.total
            # Asked once: what was not proved is not saved, and a later Ctrl-C waits for the next iteration.
            save = due or self.stopped or stop()
            if save:
                row.update(self._prove(row))
            self.writer.log(row)
            bar.update(row)
            if save:
                self._checkpoint(row)
                bar.saved(self.iteration)
                if stop():
                    raise KeyboardInterrupt

    def _iterate(self) -> dict[str, float | int | None]:
        start = time.perf_counter()
        metrics = self.learner.iterate(self.iteration / self.total)
        self.iteration += 1
        row: dict[str, float | int | None] = {
            "iteration": self.iteration,
            "steps": self.steps,
            "seconds": None,
            "steps_per_second": self.learner.steps_per_iteration / (time.perf_counter() - start),
            "mean_return": self.learner.simulator.mean_return(),
            "validation_return": None,
            "certified_gain": None,
            "certified_radius": None,
            "guarantee": None,
            **metrics,
        }
        if self.iteration % self.schedule.evaluate_every == 0 or self.iteration == self.total:
            row["validation_return"] = self._validate()
        self.seconds += time.perf_counter() - start
        row["seconds"] = self.seconds
        return row

    def _validate(self) -> float:
        episodes = self.schedule.validation_episodes or (64 if self.task.plant is not None else 8)
        policy: Any = self.learner.policy
        device = self.learner.simulator.device
        try:
            result = evaluate(
                policy, self.trial, episodes=episodes, seed=self.streams["validation"], device=device
            ).mean
        except ValueError as error:
            raise TrainingDivergedError(f"the validation failed: {error};") from error
        self.stale = 0 if result > self.best_return else self.stale + 1
        # Where the gain has a price the return alone does not say which weights are best: the last ones are kept.
        if self.stale == 0 or getattr(self.learner, "share", None) is not None:
            self.best_return, self.best_weights = result, self._weights()
        target, patience = self.schedule.target_return, self.schedule.patience
        self.stopped = (target is not None and self.best_return >= target) or (
            patience is not None and self.stale >= patience
        )
        return result

    def _prove(self, row: Mapping[str, float | int | None]) -> dict[str, float | None]:
        """Prove the bound of the policy as it is now, and the guarantee with it; callbacks see it once it is saved."""
        policy: Any = self.learner.policy
        certificate = policy.certificate()
        report = check(certificate)
        if not report.ok:
            raise NotProvedError(f"iteration {self.iteration}: {report}")
        ratio = None if self.guarantee is None else self.guarantee.prove(certificate)
        found = {
            "certified_gain": certificate.gain,
            "certified_radius": certificate.radius,
            "guarantee": ratio,
        }
        self._proved = Checkpoint(self.iteration, self.steps, policy, certificate, {**row, **found})
        return found

    def _bound(self) -> dict[str, float | None]:
        policy: Any = self.learner.policy
        certificate = policy.certificate()
        return {"certified_gain": certificate.gain, "certified_radius": certificate.radius}

    def _checkpoint(self, row: Mapping[str, float | int | None]) -> None:
        if not row:
            self._prove({"iteration": 0, "steps": 0})
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best_return": self.best_return,
            "best_weights": self.best_weights,
            "stale": self.stale,
            "stopped": self.stopped,
            "learner": self.learner.state(),
        }
        self._save_best()
        self.writer.save_checkpoint(state, self.iteration)
        self.saved = self.iteration
        # Last, so that a callback that stops the training by an exception loses nothing.
        assert self._proved is not None
        for callback in self.callbacks:
            callback(self._proved)

    def _save_best(self) -> None:
        """Write the best weights and their certificate; without a validation so far these are the present ones."""
        policy: Any = self.learner.policy
        present = self._weights()
        if self.best_return > -math.inf:
            policy.load_state_dict(self.best_weights)
        self.writer.save_policy(policy, policy.certificate())
        policy.load_state_dict(present)

    def restore(self) -> None:
        state = self.writer.load_checkpoint()
        self.learner.load_state(state["learner"])
        device = self.learner.simulator.device
        self.iteration = self.saved = state["iteration"]
        self.seconds = state["seconds"]
        self.best_return, self.stale, self.stopped = state["best_return"], state["stale"], state["stopped"]
        self.best_weights = {k: v.to(device) for k, v in state["best_weights"].items()}
        self.writer.forget_after(self.iteration)
        self.writer.clear_leftovers()

    def _explain(self, error: Exception) -> str:
        return (
            f"{error} in iteration {self.iteration + 1}; training has stopped. {self.writer.path} keeps the last good "
            f"state, of iteration {self.saved}, with its weights and certificate"
        )

    def _finish(self) -> Run:
        policy: Any = self.learner.policy
        policy.load_state_dict(self.best_weights)
        self._save_best()
        episodes, seed = self.schedule.evaluation_episodes, self.schedule.evaluation_seed
        if seed is None:
            seed = self.streams["evaluation"]
        try:
            result = evaluate(
                policy, self.task, episodes=episodes, seed=seed, device=self.learner.simulator.device
            )
        except EnvironmentFailedError as error:
            raise EnvironmentFailedError(
                f"{error} in the evaluation; the training itself has ended and is in {self.writer.path}. Resume "
                "evaluates again"
            ) from error
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("the training has ended, and its evaluation has not") from error
        write_json(self.writer.path / "evaluation.json", result.to_dict())
        return load_run(self.writer.path)
