"""The run folder: what a training leaves behind, and the only thing that later stages read.

config.json            environment, algorithm, policy, seeds and versions: enough to repeat the run
weights.safetensors    weights of the policy (the best so far, by validation), and the digest of their certificate
certificate.json       proof of its Lipschitz bound, readable without torch
evaluation.json        returns over unseen episodes
metrics.csv            one row an iteration; the same numbers for TensorBoard in tensorboard/
checkpoint.safetensors everything that continues the training bit by bit, and the one before it
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.certificate import Certificate, bound_text
from lipctrl.certificate_reader import load_certificate
from lipctrl.runs.files import (
    RunError,
    as_path,
    make_folder,
    read_bytes,
    read_document,
    read_json,
    read_tensors,
    saving,
    write_bytes,
    write_json,
    write_tensors,
)
from lipctrl.runs.state import flatten, unflatten
from lipctrl.storage import leftovers

if TYPE_CHECKING:
    from lipctrl.policies import LipschitzPolicy, ResidualPolicy

# Of the config of a run; a version that this code does not read is refused.
FORMAT = "lipctrl-run"
VERSION = 1
# Its entries beside those two, and the types that JSON gives them.
_FIELDS: dict[str, Any] = {
    "env_id": str,
    "env_options": dict,
    "trained_on": str,
    "algorithm": str,
    "settings": dict,
    "schedule": dict,
    "steps": int,
    "seed": int,
    "policy": dict,
    "guarantee": dict | None,
}


@dataclass(frozen=True)
class Run:
    """A finished or interrupted training, read from its folder; nothing is loaded before it is asked for."""

    path: Path
    config: Mapping[str, Any]

    @cached_property
    def policy(self) -> LipschitzPolicy | ResidualPolicy:
        """Return the trained policy (torch), with the weights of `weights.safetensors`."""
        tensors, _ = read_tensors(self.path / "weights.safetensors", "trained weights")
        policy = self.new_policy()
        policy.to(next(iter(tensors.values())).dtype)
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"{self.path}: the weights do not fit the policy that config.json describes ({error})"
            ) from error
        return policy

    def new_policy(self) -> LipschitzPolicy | ResidualPolicy:
        """Return a policy as config.json describes it, with new weights; RunError when it describes none."""
        from lipctrl.policies import policy_from_spec

        try:
            return policy_from_spec(self.config["policy"])
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.path / 'config.json'} is damaged: no policy can be built of its entry 'policy' "
                f"({type(error).__name__}: {error})"
            ) from error

    @cached_property
    def certificate(self) -> Certificate:
        """Return the stored certificate of the stored weights, without torch; `lipctrl.check` it before believing it.

        Raises
        ------
        RunError
            When there is none, or the one there is was made for other weights than those of `weights.safetensors`.
        """
        path = self.path / "certificate.json"
        read_bytes(path, "certificate yet; run `lipctrl certify` on the folder")
        certificate = load_certificate(path)
        require_own(self.path, certificate)
        return certificate

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Return metrics.csv as columns; entries that an iteration did not measure are NaN."""
        text = read_bytes(self.path / "metrics.csv", "metrics").decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        names = list(rows[0]) if rows else []
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """Return the evaluation over unseen episodes."""
        return read_json(self.path / "evaluation.json", "evaluation: the training has not ended")

    @property
    def env_id(self) -> str:
        """Return the environment that the policy was trained for."""
        return str(self.config["env_id"])

    def __str__(self) -> str:
        lines = [f"run {self.path}: {self.config['algorithm']} on {self.env_id}, seed {self.config['seed']}"]
        if (self.path / "certificate.json").exists():
            certificate = self.certificate
            radius = (
                ""
                if certificate.radius is None
                else f", residual radius ≤ {bound_text(certificate.radius, 6)}"
            )
            lines.append(f"  certified gain ≤ {bound_text(certificate.gain, 6)}{radius}")
        if (self.path / "evaluation.json").exists():
            e = self.evaluation
            error = "" if e["standard_error"] is None else f" ± {e['standard_error']:.3g}"
            lines.append(f"  mean return {e['mean_return']:.4g}{error} over {e['episodes']} unseen episodes")
        return "\n".join(lines)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder that `lipctrl.train` wrote.

    Raises
    ------
    ValueError
        When `path` is no path.
    RunError
        When the folder does not exist, holds no run, or its config is damaged; damaged weights and metrics raise
        when they are asked for. The message names the file.

    Examples
    --------
    >>> load_run("no-such-folder")
    Traceback (most recent call last):
    ...
    lipctrl.runs.files.RunError: no-such-folder is not a folder; expected a run that `lipctrl train` wrote
    """
    path = as_path(path, "path")
    if not path.is_dir():
        raise RunError(f"{path} is not a folder; expected a run that `lipctrl train` wrote")
    config = read_json(path / "config.json", "run (config.json is written first by `lipctrl train`)")
    if not isinstance(config, dict) or config.get("format") != FORMAT or "version" not in config:
        raise RunError(f"{path / 'config.json'} is not the config of a lipctrl run")
    if config["version"] != VERSION:
        raise RunError(
            f"{path} was written in version {config['version']} of the run format; this lipctrl reads {VERSION}"
        )
    for name, kind in _FIELDS.items():
        value = config.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = repr(value) if name in config else "missing"
            raise RunError(f"{path / 'config.json'} is damaged: its entry {name!r} is {found}")
    return Run(path, {**config, "env_options": _restored(config["env_options"])})


def require_own(folder: Path, certificate: Certificate) -> None:
    """Raise a RunError when the weights in a run folder name another certificate than this one.

    Weights of equal shapes could be exchanged, or a training killed between writing the two files.
    """
    weights = folder / "weights.safetensors"
    if not weights.exists():
        return
    named = read_document(weights, "trained weights")
    # Weights of the first versions name none.
    if named is not None and named != {"certificate": certificate.digest}:
        raise RunError(
            f"{folder / 'certificate.json'} is not the certificate of {weights.name}: one of the files was exchanged, "
            f"or a training was killed between the two. `lipctrl certify {folder}` proves the weights that are there"
        )


def _stored(value: Any) -> Any:
    """Return an option of an environment as JSON; infinity, such as that of an actuator without limits, as a word."""
    if isinstance(value, float) and math.isinf(value):
        return {"number": str(value)}
    if isinstance(value, dict):
        return {key: _stored(entry) for key, entry in value.items()}
    return [_stored(entry) for entry in value] if isinstance(value, list) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if value in ({"number": "inf"}, {"number": "-inf"}):
            return float(value["number"])
        return {key: _restored(entry) for key, entry in value.items()}
    return [_restored(entry) for entry in value] if isinstance(value, list) else value


class RunWriter:
    """Writes one run folder while it is trained; every file is whole or absent at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None
        self._board: Any = None

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def previous_path(self) -> Path:
        return self.path / "checkpoint.previous.safetensors"

    def create(self, config: Mapping[str, Any]) -> None:
        """Start a folder with its config; refuses one that already holds a run.

        A folder whose training was killed before its first checkpoint holds none yet, and is started again.
        """
        if (self.path / "config.json").exists() and not self._is_unborn():
            raise RunError(
                f"{self.path} already holds a run; continue it with resume (--resume), or choose another folder"
            )
        make_folder(self.path)
        write_json(self.path / "config.json", {**config, "env_options": _stored(config["env_options"])})

    def _is_unborn(self) -> bool:
        """Whether nothing was trained here: the first checkpoint comes before the first row of metrics."""
        traces = (self.checkpoint_path, self.previous_path, self.path / "metrics.csv")
        return not any(path.exists() for path in traces)

    def save_checkpoint(self, state: dict[str, Any], iteration: int) -> None:
        """Replace the checkpoint, keeping the one before it."""
        tensors, skeleton = flatten(state)
        with saving(self.checkpoint_path):
            if self.checkpoint_path.exists():
                self.previous_path.unlink(missing_ok=True)
                os.link(self.checkpoint_path, self.previous_path)
        write_tensors(self.checkpoint_path, tensors, {"iteration": iteration, "state": skeleton})

    def load_checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint.

        Raises
        ------
        RunError
            When it is missing or damaged; the message says whether the one before it is intact.
        """
        try:
            tensors, document = read_tensors(self.checkpoint_path, "checkpoint")
        except RunError as error:
            raise RunError(f"{error}. {self._what_is_left()}") from error
        return unflatten(tensors, document["state"])

    def _what_is_left(self) -> str:
        if self._is_unborn():
            return "The training was stopped before its first checkpoint; start it again without resume (--resume)"
        try:
            _, document = read_tensors(self.previous_path, "checkpoint")
        except RunError:
            return "No other checkpoint is intact; saved weights and certificate are separate files"
        return (
            f"The one before it, of iteration {document['iteration']}, is intact: "
            f"`mv {self.previous_path} {self.checkpoint_path}` and resume"
        )

    def log(self, row: Mapping[str, float | int | None]) -> None:
        """Append one iteration to metrics.csv and TensorBoard; the columns are those of the first row."""
        path = self.path / "metrics.csv"
        with saving(path):
            fresh = not path.exists() or path.stat().st_size == 0
            with path.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                if fresh:
                    writer.writerow(row)
                writer.writerow(["" if v is None else v for v in row.values()])
            self._tensorboard(row)

    def _tensorboard(self, row: Mapping[str, float | int | None]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=int(row["steps"] or 0))
        for name, value in row.items():
            if value is not None and name not in ("iteration", "steps"):
                self._board.add_scalar(name, value, global_step=row["steps"])

    def forget_after(self, iteration: int) -> None:
        """Drop the rows of metrics.csv beyond a checkpoint: those iterations are run again."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        # A kill can leave half a row; whole rows begin with their iteration and end in a newline.
        kept = [
            r
            for r in rows
            if r.endswith("\n") and r.split(",")[0].isdigit() and int(r.split(",")[0]) <= iteration
        ]
        write_bytes(path, (header + "".join(kept)).encode())

    def clear_leftovers(self) -> None:
        """Remove halves of files that a kill left behind; one training at a time holds the folder."""
        for path in leftovers(self.path):
            path.unlink(missing_ok=True)

    def save_policy(self, policy: Any, certificate: Certificate) -> None:
        """Replace the trained weights and their certificate; the weights name it, so that no other passes for it."""
        named = {"certificate": certificate.digest}
        write_tensors(self.path / "weights.safetensors", policy.state_dict(), named)
        path = self.path / "certificate.json"
        with saving(path):
            certificate.save(path)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()
            self._board = None
