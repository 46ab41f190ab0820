"""A certificate is a derivation tree: it describes a map, states its gain and carries the proof.

Every node holds the weights that *run* and the witness that *proves*; `rule` names the inference that
turns the claims of `parts` into the claim of the node. The tree is therefore both an executable
description of a network and a proof object. Nothing in this file decides whether a claim is true:
that is the job of `lipctrl.checker.check`.
"""

from __future__ import annotations

import decimal
import hashlib
import importlib
import json
import operator
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.storage import replace_file

FORMAT = "lipctrl-certificate"
VERSION = 1
NORMS = ("l2", "linf")
CLAIMS = ("lipschitz", "one-sided", "inverse", "contraction", "contraction-rate")
METRIC_CLAIMS = ("contraction", "contraction-rate")
# Constants of these claims may be negative.
SIGNED_CLAIMS = ("one-sided", "contraction-rate")
# Shared parts make trees of few nodes that take forever to run or to print.
MOST_APPLICATIONS = 10**6
MOST_LINES = 10_000
MOST_INDENTS = 40


class CertificateFormatError(ValueError):
    """A file or a dictionary is not a lipctrl certificate.

    Examples
    --------
    >>> Certificate("linear", 1.0, 1, 1, norm="l1")
    Traceback (most recent call last):
    ...
    lipctrl.certificate.CertificateFormatError: norm is 'l1'; expected one of ('l2', 'linf')
    """


def _frozen(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copy arrays to read-only float64, so that a sealed certificate cannot drift from its digest."""
    out = {}
    for name in sorted(arrays):
        array = np.array(arrays[name], dtype=np.float64, order="C")
        array.setflags(write=False)
        out[name] = array
    return out


def _dimension(name: str, value: Any) -> int:
    """Return a number of features, numpy's integers included."""
    try:
        size = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = 0
    if size < 1:
        raise CertificateFormatError(f"{name} is {value!r}; expected a positive integer")
    return size


@dataclass(frozen=True, eq=False)
class Certificate:
    """A claim: the map that this tree describes has incremental gain at most `gain`.

    Parameters
    ----------
    rule : name of the inference, a key of `lipctrl.rules.RULES`.
    gain : the claimed bound, in the norm `norm`. For `claim="lipschitz"` it bounds
        ‖f(x)-f(x')‖ ≤ gain·‖x-x'‖; for "one-sided" ⟨f(x)-f(x'), x-x'⟩ ≤ gain·‖x-x'‖²; for "inverse"
        ‖f(x)-f(x')‖ ≥ gain·‖x-x'‖; for "contraction" ‖f(x)-f(x')‖_P ≤ gain·‖x-x'‖_P and for "contraction-rate"
        ⟨f(x)-f(x'), P(x-x')⟩ ≤ gain·‖x-x'‖_P², in the metric ‖v‖_P² = vᵀPv of `metric`.
    in_features, out_features : dimensions of the map.
    parts : certificates of the sub-maps.
    weights, witness : numbers that run, numbers that prove (float64, read-only).
    params : JSON values of the rule, such as the names of activations.
    region : None when the claim holds for every pair of inputs, or (lower, upper) arrays of the box
        from which both inputs must come.
    note : JSON values for people (method, slack, measured errors). Covered by the digest, used by no proof.
    digest : SHA-256 over everything above; computed when empty, compared by `check` when given.
    """

    rule: str
    gain: float
    in_features: int
    out_features: int
    parts: tuple[Certificate, ...] = ()
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    witness: Mapping[str, np.ndarray] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "l2"
    claim: str = "lipschitz"
    region: tuple[np.ndarray, np.ndarray] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "gain", float(self.gain))
        set_(self, "in_features", _dimension("in_features", self.in_features))
        set_(self, "out_features", _dimension("out_features", self.out_features))
        set_(self, "parts", tuple(self.parts))
        set_(self, "weights", _frozen(self.weights))
        set_(self, "witness", _frozen(self.witness))
        set_(self, "params", dict(self.params))
        set_(self, "note", dict(self.note))
        if self.norm not in NORMS:
            raise CertificateFormatError(f"norm is {self.norm!r}; expected one of {NORMS}")
        if self.claim not in CLAIMS:
            raise CertificateFormatError(f"claim is {self.claim!r}; expected one of {CLAIMS}")
        if self.region is not None:
            box = _frozen({"lower": self.region[0], "upper": self.region[1]})
            set_(self, "region", (box["lower"], box["upper"]))
        if not self.digest:
            set_(self, "digest", self.computed_digest())

    # -- identity ---------------------------------------------------------------------------------

    def computed_digest(self) -> str:
        """Return the SHA-256 of this node's numbers and of its parts' digests."""
        h = hashlib.sha256()
        head = {
            "rule": self.rule,
            "gain": self.gain.hex(),
            "features": [self.in_features, self.out_features],
            "params": self.params,
            "norm": self.norm,
            "claim": self.claim,
            "note": self.note,
            "parts": [p.digest for p in self.parts],
        }
        h.update(json.dumps(head, sort_keys=True, allow_nan=True).encode())
        region = {} if self.region is None else {"lower": self.region[0], "upper": self.region[1]}
        for kind, arrays in (("weights", self.weights), ("witness", self.witness), ("region", region)):
            for name, array in arrays.items():
                h.update(f"{kind}/{name}/{array.shape}".encode())
                h.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return h.hexdigest()

    def nodes(self) -> Iterator[Certificate]:
        """Yield every distinct node once, parts before wholes (no recursion: trees may be deep)."""
        seen: set[int] = set()
        stack: list[tuple[Certificate, bool]] = [(self, False)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                yield node
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((part, False) for part in reversed(node.parts))

    # -- the described map ------------------------------------------------------------------------

    def evaluate(self, x: Any) -> np.ndarray:
        """Run the described map in float64: x of shape (..., in_features) to (..., out_features)."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"input has shape {x.shape}; expected (..., {self.in_features}): features come last"
            )
        if self._applications > MOST_APPLICATIONS:
            raise ValueError(f"the tree applies its parts more than {MOST_APPLICATIONS} times")
        # The rules live on the floor above; they are looked up by name, never imported here.
        try:
            return importlib.import_module("lipctrl.rules").evaluate(self, x)
        except RecursionError as error:
            raise ValueError(
                "the tree is nested too deeply to run; compose many maps as one series(a, b, c, ...)"
            ) from error

    @cached_property
    def _applications(self) -> int:
        """Return how many maps an evaluation runs: a shared part runs wherever it stands."""
        count: dict[int, int] = {}
        for node in self.nodes():
            times = node.params.get("times", 1) if node.rule == "repeat" else 1
            inner = sum(count[id(part)] for part in node.parts)
            most = MOST_APPLICATIONS + 1
            count[id(node)] = min(1 + inner * (times if type(times) is int else 1), most)
        return count[id(self)]

    # -- what the analysis reads ------------------------------------------------------------------

    @property
    def metric(self) -> np.ndarray | None:
        """Positive definite P of a claim of contraction, (n, n), else None."""
        return self.witness.get("metric") if self.claim in METRIC_CLAIMS else None

    @property
    def _policy_core(self) -> Certificate:
        return self.parts[0] if self.rule == "projection" and self.parts else self

    @property
    def center(self) -> np.ndarray | None:
        """Centre K₀ (out × in) of the incremental ball of a residual policy, else None.

        ‖π(y)-π(y')-K₀(y-y')‖ ≤ radius·‖y-y'‖ wherever `limits` are inactive; sign: u = π(y), so a
        policy u = -K y + φ(y) has K₀ = -K.
        """
        core = self._policy_core
        return core.parts[0].weights["weight"] if core.rule == "centered" else None

    @property
    def radius(self) -> float | None:
        """Radius ρ of the incremental ball around `center`, None when there is no centre."""
        core = self._policy_core
        return core.parts[1].gain if core.rule == "centered" else None

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds (lower, upper) of an outermost clip of the output, or None."""
        if self.rule != "projection":
            return None
        return self.weights["lower"], self.weights["upper"]

    # -- files ------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: a flat list of nodes, parts before wholes, the root last."""
        index: dict[int, int] = {}
        nodes = []
        for node in self.nodes():
            index[id(node)] = len(nodes)
            nodes.append(_node_to_dict(node, [index[id(p)] for p in node.parts]))
        return {"format": FORMAT, "version": VERSION, "digest": self.digest, "nodes": nodes}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate as JSON, atomically; every float64 survives the round trip exactly."""
        try:
            text = json.dumps(self.to_dict(), allow_nan=False)
        except ValueError as error:
            raise CertificateFormatError("a certificate with NaN or inf entries cannot be saved") from error
        return replace_file(path, text.encode())

    def __str__(self) -> str:
        """Return the derivation tree, one node a line; of a tree beyond any page, its beginning."""
        lines: list[str] = []
        stack: list[tuple[Certificate, int]] = [(self, 0)]
        while stack:
            if len(lines) == MOST_LINES:
                lines.append("…")
                break
            node, depth = stack.pop()
            lines.append("  " * min(depth, MOST_INDENTS) + _headline(node))
            stack.extend((part, depth + 1) for part in reversed(node.parts))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Certificate {_headline(self)} · {sum(1 for _ in self.nodes())} nodes · {self.digest[:12]}>"


def bound_text(value: float, digits: int = 9, *, upper: bool = True) -> str:
    """Return a proved bound in so many digits, rounded away from the claim: what is printed follows from the proof.

    Examples
    --------
    >>> bound_text(1.00001, 4), bound_text(1.99999, 4, upper=False), bound_text(2.0, 4)
    ('1.001', '1.999', '2')
    """
    rounding = decimal.ROUND_CEILING if upper else decimal.ROUND_FLOOR
    shown = decimal.Context(prec=digits, rounding=rounding, traps=[]).create_decimal_from_float(value)
    return f"{float(shown):.{digits}g}"


def statement(node: Certificate) -> str:
    """Return what a node claims in words: the property, its constant, the norm, and whether a box limits it.

    The constant is rounded to nine digits, away from the claim.

    Examples
    --------
    >>> statement(Certificate("identity", 0.5, 2, 2, claim="inverse"))
    'inverse ≥ 0.5 (l2)'
    >>> statement(Certificate("scaling", 1.0 / 3.0, 2, 2))
    'gain ≤ 0.333333334 (l2)'
    """
    upper = node.claim != "inverse"
    where = "" if node.region is None else " on a box"
    kind = "gain" if node.claim == "lipschitz" else node.claim
    norm = node.norm if node.metric is None else "in the metric P"
    return f"{kind} {'≤' if upper else '≥'} {bound_text(node.gain, upper=upper)} ({norm}){where}"


def _headline(node: Certificate) -> str:
    activations = node.params.get("activations", [])
    listed = activations if isinstance(activations, list) else []
    inner = sorted({str(a.get("name", "nested")) for a in listed if isinstance(a, dict)})
    tail = f" [{', '.join(inner)}]" if inner else ""
    return f"{node.rule}{tail} ({node.in_features} → {node.out_features}): {statement(node)}"


def _arrays_to_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: {"shape": list(a.shape), "data": a.ravel().tolist()} for name, a in arrays.items()}


def _node_to_dict(node: Certificate, parts: list[int]) -> dict[str, Any]:
    region = None
    if node.region is not None:
        region = _arrays_to_dict({"lower": node.region[0], "upper": node.region[1]})
    return {
        "rule": node.rule,
        "gain": node.gain,
        "in_features": node.in_features,
        "out_features": node.out_features,
        "norm": node.norm,
        "claim": node.claim,
        "params": dict(node.params),
        "note": dict(node.note),
        "parts": parts,
        "weights": _arrays_to_dict(node.weights),
        "witness": _arrays_to_dict(node.witness),
        "region": region,
        "digest": node.digest,
    }
