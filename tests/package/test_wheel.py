"""The wheel holds both packages, and what it installs runs outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert roots == {"lipctrl", "lipctrl_envs"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(wheel, tmp_path):
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    # Isolated from the repository: only the wheel's files can be imported under these names.
    code = "import sys, lipctrl; assert lipctrl.__file__.startswith(sys.argv[1]); print('from the wheel')"
    environment = {**os.environ, "PYTHONPATH": str(target), "MPLBACKEND": "Agg"}
    run = [sys.executable, "-c", code, str(target)]
    subprocess.run(run, check=True, cwd=tmp_path, env=environment, timeout=300)
    run = [sys.executable, "-c", "from lipctrl.cli import main; main()", "demo", "--fast", "--out", "demo"]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "certified" in result.stdout
