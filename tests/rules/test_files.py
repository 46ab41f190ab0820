"""Certificate files that two readers could read differently are refused."""

from __future__ import annotations

import json

import pytest

from lipctrl import certify, check, load_certificate, rules
from lipctrl.certificate import CertificateFormatError


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
