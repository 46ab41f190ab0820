"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path


def replace_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Replace the file at `path` by `data`, atomically and durably: readers see the old file or the new one.

    Folders that are missing are made. The file gets the permissions that the process gives to new files.

    Raises
    ------
    OSError
        When the disk is full or the folder cannot be written; the old file is then untouched.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(f"{folder}/new/note.txt", b"whole").read_bytes()
    b'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the unfinished files that killed calls of `replace_file` left in a folder."""
    return sorted(p for p in Path(folder).glob("*.tmp") if re.search(r"\.[0-9a-f]{8}\.tmp$", p.name))


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the operating system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
