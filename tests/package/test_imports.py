"""The floors hold at run time: proofs and analysis work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )


def test_importing_lipctrl_imports_neither_torch_nor_control():
    result = run("import sys, lipctrl; print(sorted({'torch', 'control'} & set(sys.modules)))")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture
def stored(tmp_path):
    from lipctrl import rules

    net = rules.series(rules.linear([[0.3, 0.1]]), rules.elementwise("tanh", 1))
    return rules.centered([[-1.0, -1.5]], net).save(tmp_path / "certificate.json")


# Importing torch now fails as it does where torch is not installed.
NO_TORCH = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Absent())
"""

WITHOUT_TORCH = """
import control, numpy as np, lipctrl
certificate = lipctrl.load_certificate({path!r})
assert lipctrl.check(certificate).ok
plant = control.ss([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], np.eye(2), 0)
report = lipctrl.analyze(plant, certificate)
assert report.verdict == "certified", report.verdict
print(report.verdict)
"""


def test_a_stored_certificate_is_analysed_without_torch(stored):
    result = run(NO_TORCH + WITHOUT_TORCH.format(path=str(stored)))
    assert result.stdout.strip().endswith("certified"), result.stderr


def test_verify_runs_without_torch(stored):
    code = f"""
from lipctrl.cli import main
sys.argv = ["lipctrl", "verify", {str(stored)!r}]
main()
"""
    result = run(NO_TORCH + code)
    assert result.returncode == 0, result.stderr


def test_every_public_name_exists():
    import lipctrl

    for name in lipctrl.__all__:
        assert getattr(lipctrl, name) is not None


def test_unknown_names_are_attribute_errors():
    import lipctrl

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lipctrl.no_such_name
