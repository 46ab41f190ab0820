"""Every example runs from the command line, says what it found, and writes what it promises."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))

# script -> (words that its output must hold, files that it must write, packages that it needs)
EXPECTED = {
    "01_your_own_plant_and_network.py": (
        ["lipsdp   gain ≤", "proved: gain", "verdict: certified"],
        ["certificate.json", "report.html", "sigma.png"],
        ["cvxpy"],
    ),
    "02_recursive_blocks.py": (["neurons [nested]", "proved: gain", "≤ Lipschitz constant ≤"], [], []),
    "03_compare_parametrizations.py": (["gershgorin-scaled", "lossless"], ["error.png"], []),
    "04_nonlinear_region.py": (
        ["linearised plant: certified", "region of attraction"],
        ["region.png"],
        ["cvxpy"],
    ),
    "05_stable_baselines3.py": (["proved: gain"], [], ["stable_baselines3"]),
    "demo_cartpole.py": (["certified"], [], []),
}


def test_every_example_is_in_the_table():
    assert set(SCRIPTS) == set(EXPECTED)


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs_fast(name, tmp_path):
    words, files, needed = EXPECTED[name]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(EXAMPLES / name), "--fast"]
    if files:
        command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for word in words:
        assert word in done.stdout, done.stdout
    for file in files:
        assert (tmp_path / "out" / file).stat().st_size > 1000
