"""The files of a run folder: whole or absent, with errors that say what is still safe."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipctrl.storage import replace_file

if TYPE_CHECKING:
    from torch import Tensor

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# What file systems answer that lock no folders: network ones, for instance.
_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class RunError(RuntimeError):
    """A run folder cannot be read, written or continued; the message says what to do."""


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing `path` into a RunError that says what is still safe."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in _NO_SPACE else (error.strerror or str(error))
        raise RunError(
            f"cannot write {path}: {reason}. Everything reported as saved in {path.parent} is intact; "
            "make room (or mend the folder) and continue the run with resume."
        ) from error


def as_path(value: Any, name: str) -> Path:
    """Return what names a file or a folder as a path; ValueError for what names none."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise ValueError(f"{name} is {value!r}; expected the name of a folder or a file, a str or a Path")
    return Path(value)


def make_folder(path: Path) -> None:
    """Make the folder of a run or a sweep, or raise a RunError that says what is in its way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunError(f"{path} is a file; runs need a folder: choose another") from error
    except OSError as error:
        raise RunError(f"cannot make the run folder {path}: {error.strerror}; choose another") from error


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes from writing a run or a sweep into a folder meanwhile; a process that dies holds nothing.

    The folder is made if need be. Where the system or the file system has no locks, nobody is kept out.

    Raises
    ------
    RunError
        When somebody else holds it.
    """
    make_folder(folder)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another {what} is writing into {folder}; wait for its end, or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, atomically and durably.

    Raises
    ------
    RunError
        When the disk is full or the folder cannot be written; the old file is then untouched.
    """
    with saving(path):
        replace_file(path, data)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and inf are refused (a ValueError), because JSON has no such numbers."""
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a file, or raise a RunError that says which file of a run is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path} is missing: this folder holds no {what}") from None
    except OSError as error:
        raise RunError(f"cannot read the {what} {path}: {error.strerror}") from error


def read_json(path: Path, what: str) -> Any:
    """Read JSON, or raise a RunError that names the damaged file."""
    try:
        return json.loads(read_bytes(path, what))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); the {what} is damaged") from error


def _fingerprint(tensors: Mapping[str, Tensor], document: str) -> str:
    digest = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Any = None) -> None:
    """Write tensors and a JSON document into one safetensors file, atomically, with a SHA-256 over both."""
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(document)
    # One entry: safetensors writes several in no fixed order, and equal weights are to be equal files.
    whole_text = json.dumps({"document": text, "sha256": _fingerprint(whole, text)})
    write_bytes(path, save(whole, metadata={"lipctrl": whole_text}))


def _metadata(file: Any) -> Any:
    found = file.metadata() or {}
    # Files of the first versions hold both entries side by side.
    return json.loads(found["lipctrl"]) if "lipctrl" in found else found


def read_document(path: Path, what: str) -> Any:
    """Read the JSON document that stands beside tensors, without torch and without a look at the tensors."""
    from safetensors import SafetensorError, safe_open

    read_bytes(path, what)
    try:
        with safe_open(path, framework="np") as file:
            return json.loads(_metadata(file)["document"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"the {what} {path} is damaged: {error}") from error


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], Any]:
    """Read what `write_tensors` wrote, or raise a RunError when a single bit of it has changed."""
    from safetensors import SafetensorError, safe_open

    read_bytes(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(file)
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"the {what} {path} is damaged: {error}") from error
    text = metadata.get("document") if isinstance(metadata, dict) else None
    if text is None or metadata.get("sha256") != _fingerprint(tensors, text):
        raise RunError(f"the {what} {path} is damaged: its contents do not match their SHA-256")
    return tensors, json.loads(text)
