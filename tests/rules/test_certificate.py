"""Certificates as files: exact round trips, a seal, and a loader that cannot be crashed or fooled."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.certificate import Certificate, CertificateFormatError
from lipctrl.certificate_reader import certificate_from_dict, load_certificate
from lipctrl.checker import check


def test_every_number_survives_the_round_trip(specimen, tmp_path):
    path = specimen.save(tmp_path / "c.json")
    back = load_certificate(path)
    assert back.digest == specimen.digest == back.computed_digest()
    for a, b in zip(specimen.nodes(), back.nodes(), strict=True):
        assert a.gain == b.gain
        for left, right in ((a.weights, b.weights), (a.witness, b.witness)):
            assert {k: v.tobytes() for k, v in left.items()} == {k: v.tobytes() for k, v in right.items()}
    assert check(back).ok
    x = np.random.default_rng(0).standard_normal((5, specimen.in_features))
    assert np.array_equal(specimen.evaluate(x), back.evaluate(x))


def test_extreme_doubles_survive_the_round_trip(tmp_path):
    weight = np.array([[5e-324, 1.7976931348623157e308], [0.1, -0.0]])
    cert = Certificate("linear", 1.0, 2, 2, weights={"weight": weight, "bias": [2.0**-1022, 1 / 3]})
    back = load_certificate(cert.save(tmp_path / "c.json"))
    assert back.weights["weight"].tobytes() == weight.tobytes()


def test_shared_parts_are_stored_once_and_stay_shared(tmp_path):
    part = rules.linear([[0.5]])
    tree = part
    for _ in range(40):
        tree = rules.series(tree, rules.identity(1)) if tree is part else rules.total(tree, tree)
        if sum(1 for _ in tree.nodes()) > 60:
            break
    back = load_certificate(tree.save(tmp_path / "c.json"))
    assert sum(1 for _ in back.nodes()) == sum(1 for _ in tree.nodes()) < 60
    assert check(back).ok


def test_a_deep_tree_needs_no_deep_stack(tmp_path):
    cert = rules.identity(1)
    for _ in range(3000):
        cert = rules.series(cert, rules.identity(1))
    back = load_certificate(cert.save(tmp_path / "deep.json"))
    assert check(back).ok
    assert str(back).count("\n") == 6000


def test_sealed_numbers_cannot_be_written(specimen):
    for arrays in (specimen.weights, specimen.witness):
        for array in arrays.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        specimen.gain = 0.0


def test_the_seal_covers_every_field(specimen):
    changes = {
        "gain": specimen.gain * 2.0 + 1.0,
        "note": {"method": "forged"},
        "params": {**specimen.params, "extra": 1},
        "in_features": specimen.in_features + 1,
        "out_features": specimen.out_features + 1,
        "region": (np.zeros(specimen.in_features), np.ones(specimen.in_features)),
        "claim": "one-sided",
        "norm": "linf" if specimen.norm == "l2" else "l2",
        "rule": "identity" if specimen.rule != "identity" else "linear",
    }
    for field, value in changes.items():
        forged = dataclasses.replace(specimen, **{field: value})
        assert forged.digest == specimen.digest
        report = check(forged)
        assert not report.ok, field
        assert report.gain == math.inf
        assert "digest" in str(report)


def test_the_seal_covers_the_parts():
    inner = rules.linear([[1.0]])
    outer = rules.series(inner, rules.identity(1))
    forged = dataclasses.replace(inner, weights={"weight": [[2.0]], "bias": [0.0]})
    report = check(dataclasses.replace(outer, parts=(forged, outer.parts[1])))
    assert not report.ok
    assert "node 0" in report.failures[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "3", '"lipctrl"', "{", "\ufeff{}", "[" * 100_000])
def test_what_is_not_a_certificate_is_refused_as_such(text, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CertificateFormatError):
        load_certificate(path)


def _table() -> dict:
    return rules.linear([[1.0, 2.0]]).to_dict()


def _set(path: list, value) -> dict:
    table = _table()
    target = table
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return table


NODE = ["nodes", 0]
BAD = {
    "gain is a word": (*NODE, "gain", "1"),
    "gain is huge": (*NODE, "gain", 10**400),
    "gain is a bool": (*NODE, "gain", True),
    "features are zero": (*NODE, "in_features", 0),
    "features are float": (*NODE, "in_features", 2.0),
    "a part is itself": (*NODE, "parts", [0]),
    "a part is negative": (*NODE, "parts", [-1]),
    "a part is a bool": (*NODE, "parts", [False]),
    "shape is wrong": (*NODE, "weights", "weight", "shape", [2, 2]),
    "shape is negative": (*NODE, "weights", "weight", "shape", [-1, -2]),
    "an entry is null": (*NODE, "weights", "weight", "data", [None, 1.0]),
    "an entry is nested": (*NODE, "weights", "weight", "data", [[1.0], 1.0]),
    "an entry is a bool": (*NODE, "weights", "weight", "data", [True, 1.0]),
    "an entry is a huge integer": (*NODE, "weights", "weight", "data", [10**400, 1.0]),
    "weights are a list": (*NODE, "weights", []),
    "rule is a number": (*NODE, "rule", 3),
    "norm is unknown": (*NODE, "norm", "l7"),
    "claim is unknown": (*NODE, "claim", "true"),
    "params are a list": (*NODE, "params", []),
    "region lacks an end": (*NODE, "region", {"lower": {"shape": [2], "data": [0, 0]}}),
    "nodes are empty": ("nodes", []),
    "a node is a number": ("nodes", [3]),
    "version is new": ("version", 2),
    "version is a bool": ("version", True),
    "digest is missing": (*NODE, "digest", ""),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_malformed_fields_are_refused_by_name(case, tmp_path):
    *path, value = BAD[case]
    table = _set(list(path), value)
    with pytest.raises(CertificateFormatError):
        certificate_from_dict(table)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(table))
    with pytest.raises(CertificateFormatError):
        load_certificate(file)


def test_unknown_fields_are_refused():
    for path in (["extra"], [*NODE, "extra"], [*NODE, "weights", "weight", "extra"]):
        with pytest.raises(CertificateFormatError):
            certificate_from_dict(_set(path, 1))


def refused_or_unproved(text, path):
    path.write_text(text)
    try:
        cert = load_certificate(path)
    except CertificateFormatError:
        return True
    return not check(cert).ok


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_tokens_that_are_not_finite_numbers_never_prove(token, tmp_path):
    text = json.dumps(_table()).replace("2.0", token, 1)
    assert refused_or_unproved(text, tmp_path / "c.json")


def test_deeply_nested_values_are_refused_not_fatal(tmp_path):
    deep = "[" * 900 + "]" * 900
    text = json.dumps(_table()).replace('"params": {}', f'"params": {{"a": {deep}}}')
    assert refused_or_unproved(text, tmp_path / "c.json")


def test_a_certificate_with_infinite_entries_is_not_saved(tmp_path):
    cert = Certificate("linear", 1.0, 1, 1, weights={"weight": [[np.inf]], "bias": [0.0]})
    with pytest.raises(CertificateFormatError):
        cert.save(tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []


def _mutated(text: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(text)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(data)))
        action = rng.integers(4)
        if action == 0:
            data[place] = int(rng.integers(256))
        elif action == 1:
            del data[place : place + int(rng.integers(1, 6))]
        elif action == 2:
            data[place:place] = bytes(
                rng.choice(list(b'0123456789.eE-+,:[]{}"nulltrue'), int(rng.integers(1, 4)))
            )
        else:
            data[place] = int(rng.choice(list(b"0123456789.e-")))
    return bytes(data)


def _fuzz(certificate: Certificate, path, count: int, seed: int) -> tuple[int, int]:
    """Edit bytes of the file; return how many loaded and how many of those still proved."""
    rng = np.random.default_rng(seed)
    text = path.read_bytes()
    loaded = proved = 0
    for _ in range(count):
        path.write_bytes(_mutated(text, rng))
        try:
            back = load_certificate(path)
        except CertificateFormatError:
            continue
        loaded += 1
        if check(back).ok:
            proved += 1
            # An edit such as 1.0 -> 1.00 changes no number: only the very same certificate proves.
            assert back.computed_digest() == certificate.computed_digest()
    return loaded, proved


@pytest.mark.parametrize("name", ["network", "series", "projection", "network-local-linf"])
def test_random_edits_of_a_file_never_crash_and_never_prove_another_claim(specimens, name, tmp_path):
    cert = specimens[name]
    loaded, proved = _fuzz(cert, cert.save(tmp_path / "c.json"), 200, seed=len(name))
    assert loaded > 10
    assert proved < loaded


@pytest.mark.slow
def test_many_random_edits_of_every_specimen(specimen, tmp_path):
    _fuzz(specimen, specimen.save(tmp_path / "c.json"), 800, seed=1)


def test_a_failed_write_leaves_the_old_file(tmp_path, specimen, monkeypatch):
    path = specimen.save(tmp_path / "c.json")
    before = path.read_bytes()

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        rules.identity(3).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_others_may_read_a_saved_certificate_as_any_other_file(tmp_path, specimen):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert specimen.save(tmp_path / "c.json").stat().st_mode == ordinary.stat().st_mode


def test_a_tree_prints_one_node_a_line(specimen):
    assert len(str(specimen).splitlines()) >= 1
    assert specimen.digest[:12] in repr(specimen)


def test_every_copy_of_the_digest_is_compared():
    """The file names the digest of its last node once more: neither copy mends the other."""
    data = rules.series(rules.linear([[3.0, 4.0]]), rules.linear([[2.0]])).to_dict()
    assert check(certificate_from_dict(data)).ok
    for place in (data, *data["nodes"]):
        kept = place["digest"]
        for altered in ("0" * 64, kept[:-1] + ("1" if kept[-1] == "0" else "0")):
            place["digest"] = altered
            report = check(certificate_from_dict(data))
            assert not report.ok
            assert "digest" in report.failures[0]
        place["digest"] = kept
    assert check(certificate_from_dict(data)).ok
