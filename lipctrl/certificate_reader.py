"""Reads certificates from files that nobody has vouched for: what has the wrong form is refused, nothing is proved."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.certificate import FORMAT, VERSION, Certificate, CertificateFormatError


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise CertificateFormatError(message)


def _arrays_from_dict(data: Any, where: str) -> dict[str, np.ndarray]:
    _expect(isinstance(data, dict), f"{where} is not a table of arrays")
    out = {}
    for name, entry in data.items():
        _expect(name.isprintable(), f"{where} names an array {ascii(name)[:200]}, which is not a word")
        _expect(
            isinstance(entry, dict) and set(entry) == {"shape", "data"}, f"{where}/{name} is not an array"
        )
        shape, values = entry["shape"], entry["data"]
        _expect(
            isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape),
            f"{where}/{name} has the bad shape {shape!r}",
        )
        _expect(
            isinstance(values, list) and all(type(v) in (int, float) for v in values),
            f"{where}/{name} holds something that is not a number",
        )
        _expect(
            len(values) == math.prod(shape),
            f"{where}/{name} has {len(values)} numbers for the shape {shape}",
        )
        try:
            out[name] = np.array([float(v) for v in values], dtype=np.float64).reshape(shape)
        except OverflowError as error:
            raise CertificateFormatError(f"{where}/{name} holds an integer beyond float64") from error
        except ValueError as error:
            raise CertificateFormatError(f"{where}/{name} has a shape of absurd size") from error
    return out


_NODE_KEYS = {
    *("rule", "gain", "in_features", "out_features", "norm", "claim", "params", "note", "parts"),
    *("weights", "witness", "region", "digest"),
}


def _node_from_dict(data: Any, earlier: list[Certificate]) -> Certificate:
    where = f"node {len(earlier)}"
    _expect(isinstance(data, dict), f"{where} is not a table")
    _expect(set(data) == _NODE_KEYS, f"{where} has the wrong fields: {sorted(set(data) ^ _NODE_KEYS)}")
    for key in ("rule", "norm", "claim", "digest"):
        _expect(
            isinstance(data[key], str) and data[key].isprintable() and data[key] != "",
            f"{where}: {key} is not a word",
        )
    for key in ("in_features", "out_features"):
        _expect(type(data[key]) is int and data[key] >= 1, f"{where}: {key} is not a positive integer")
    _expect(type(data["gain"]) in (int, float), f"{where}: gain is not a number")
    _expect(abs(data["gain"]) < 2**1024, f"{where}: gain is beyond float64")
    for key in ("params", "note"):
        _expect(isinstance(data[key], dict), f"{where}: {key} is not a table")
    parts = data["parts"]
    _expect(
        isinstance(parts, list) and all(type(i) is int and 0 <= i < len(earlier) for i in parts),
        f"{where}: parts must be numbers of earlier nodes",
    )
    region = None
    if data["region"] is not None:
        box = _arrays_from_dict(data["region"], f"{where}/region")
        _expect(set(box) == {"lower", "upper"}, f"{where}: region needs lower and upper")
        region = (box["lower"], box["upper"])
    return Certificate(
        rule=data["rule"],
        gain=float(data["gain"]),
        in_features=data["in_features"],
        out_features=data["out_features"],
        parts=tuple(earlier[i] for i in parts),
        weights=_arrays_from_dict(data["weights"], f"{where}/weights"),
        witness=_arrays_from_dict(data["witness"], f"{where}/witness"),
        params=data["params"],
        norm=data["norm"],
        claim=data["claim"],
        region=region,
        note=data["note"],
        digest=data["digest"],
    )


def certificate_from_dict(data: Any) -> Certificate:
    """Rebuild a certificate from its JSON form; nothing is proved by this.

    Raises
    ------
    CertificateFormatError
        When the data is not a certificate of this format and version.
    """
    _expect(isinstance(data, dict) and data.get("format") == FORMAT, f"this is not a {FORMAT}")
    known = type(data.get("version")) is int and data["version"] == VERSION
    _expect(known, f"version {data.get('version')!r}; this lipctrl reads {VERSION}")
    _expect(set(data) == {"format", "version", "digest", "nodes"}, "unknown fields beside the nodes")
    _expect(isinstance(data["nodes"], list) and len(data["nodes"]) > 0, "there are no nodes")
    nodes: list[Certificate] = []
    for entry in data["nodes"]:
        nodes.append(_node_from_dict(entry, nodes))
    root = nodes[-1]
    used = sum(1 for _ in root.nodes())
    _expect(
        used == len(nodes),
        f"{len(nodes) - used} of {len(nodes)} nodes are parts of nothing: nobody would prove them",
    )
    if root.digest != data["digest"]:
        # Whichever of the two was altered: `check` reports a broken seal.
        object.__setattr__(root, "digest", f"{root.digest} in the last node, {data['digest']!r} of the file")
    return root


def _no_constant(token: str) -> float:
    raise CertificateFormatError(f"{token} is not a number that a certificate may hold")


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table whose every name stands once: other readers may take the other value of a doubled name."""
    table = dict(pairs)
    _expect(
        len(table) == len(pairs), f"a table names a field twice: {ascii([name for name, _ in pairs])[:200]}"
    )
    return table


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate from a JSON file; run `lipctrl.check` on it before believing it.

    Raises
    ------
    CertificateFormatError
        When the file is not a certificate.
    FileNotFoundError, IsADirectoryError, ValueError
        When there is no file of that name, or the name is none. Other OSError pass through.

    Examples
    --------
    >>> import tempfile
    >>> from lipctrl import check, rules
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = rules.linear([[3.0, 4.0]]).save(Path(folder) / "certificate.json")
    ...     check(load_certificate(path)).ok
    True
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path is {path!r}; expected the name of a file, a str or a Path")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file, such as the certificate.json in one")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a certificate that lipctrl saved")
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_single)
    except CertificateFormatError:
        raise
    except (ValueError, RecursionError) as error:
        # Not UTF-8, not JSON, an integer of absurd length, or nesting beyond any certificate.
        raise CertificateFormatError(f"{path} is not JSON: {error}") from error
    return certificate_from_dict(data)
