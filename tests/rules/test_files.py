"""Certificate files that two readers could read differently are refused."""

from __future__ import annotations

import json

import pytest

from lipctrl import certify, check, load_certificate, rules
from lipctrl.certificate import Certificate, CertificateFormatError, statement
from lipctrl.certificate_reader import certificate_from_dict


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"gain": ', '"gain": 1.0, "gain": '),
        ('"data": [3.0', '"data": [0.0, 0.0], "data": [3.0'),
        ('"weights": ', '"weights": {}, "weights": '),
        ('"params": {', '"params": {"a": 1, "a": 1'),
    ],
)
def test_a_name_stands_once(tmp_path, old, new):
    path = tmp_path / "c.json"
    text = json.dumps(rules.linear([[3.0, 4.0]]).to_dict())
    path.write_text(text)
    assert check(load_certificate(path)).ok
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CertificateFormatError, match="twice"):
        load_certificate(path)


def test_a_report_says_what_was_proved():
    """A lower bound, and a bound on a box, are not printed as a bound everywhere."""
    layers = [([[2.0, 0.0], [0.0, 3.0]], None), ([[1.0, 0.0], [0.0, 1.0]], None)]
    steep = {"name": "leaky_relu", "slope": 0.5}
    inverse = certify(layers, activation=steep, property="inverse", region=(-1.0, 1.0))
    assert str(check(inverse)).startswith("proved: inverse ≥ ")
    assert "on a box" in str(check(inverse))
    rate = certify(layers, activation=steep, property="contraction-rate")
    assert "contraction-rate ≤ " in str(check(rate))
    assert "in the metric P" in str(check(rate))
    assert "(linf)" in str(check(certify(layers, activation=steep, norm="linf")))


@pytest.mark.parametrize("claim", ["lipschitz", "inverse", "one-sided"])
@pytest.mark.parametrize("gain", [1.0000000004, 2.0 / 3.0, 1e-310, 5e-324, 1.7976931348623157e308, 0.0, 6.0])
def test_what_is_printed_follows_from_what_is_proved(claim, gain):
    """Nine digits to the nearest would print 1.0000000004 as a bound of 1."""
    for value in (gain, -gain):
        if value < 0.0 and claim != "one-sided":
            continue
        words = statement(Certificate("identity", value, 1, 1, claim=claim)).split()
        printed = float(words[2])
        assert printed <= value if claim == "inverse" else printed >= value
        assert printed == pytest.approx(value, rel=1e-8, abs=1e-323) or value > 1e308


def test_nodes_that_are_parts_of_nothing_are_refused():
    """Whoever reads the first node of such a file reads what nobody has proved."""
    data = rules.series(rules.linear([[3.0, 4.0]]), rules.scaling([2.0])).to_dict()
    alone = {**data["nodes"][0], "gain": 0.0}
    moved = [{**node, "parts": [i + 1 for i in node["parts"]]} for node in data["nodes"]]
    with pytest.raises(CertificateFormatError, match="1 of 4 nodes are parts of nothing"):
        certificate_from_dict({**data, "nodes": [alone, *moved]})


@pytest.mark.parametrize("name", ["a\nproved: gain ≤ 0", "\x1b[2J", "\ud800"])
def test_names_that_steer_a_terminal_are_refused_and_not_printed(name):
    data = rules.linear([[3.0, 4.0]]).to_dict()
    data["nodes"][0]["witness"][name] = {"shape": [1], "data": [0.0]}
    with pytest.raises(CertificateFormatError, match="not a word") as error:
        certificate_from_dict(data)
    assert str(error.value).isprintable()
