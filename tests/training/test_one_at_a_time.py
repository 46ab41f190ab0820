"""One training, or one sweep, writes into a folder at a time; who was killed keeps nobody out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import ENV, short_run

import lipctrl
from lipctrl.runs.files import RunError, held
from lipctrl.runs.sweeps import sweep

HOLD = """
import sys, time
from pathlib import Path
from lipctrl.runs.files import held
with held(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_training_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "run"
    short_run(out, iterations=2)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    first = holder(out)
    try:
        for resume in (False, True):
            with pytest.raises(RunError, match=r"another training is writing into .*run; wait for its end"):
                short_run(out, iterations=4, resume=resume)
        assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    finally:
        first.kill()
        first.communicate()
    # The killed one holds nothing.
    short_run(out, iterations=4, resume=True)
    assert lipctrl.load_run(out).metrics["iteration"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_second_sweep_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with held(tmp_path / "sweep", "sweep"), pytest.raises(RunError, match="another sweep is writing into"):
        sweep(ENV, grid={"seed": [0]}, workers=0, out=tmp_path / "sweep")


def test_a_failed_training_holds_nothing_either(tmp_path: Path) -> None:
    short_run(tmp_path / "run", iterations=2)
    for _ in range(2):
        with pytest.raises(RunError, match="already holds a run"):
            short_run(tmp_path / "run", iterations=2)
    short_run(tmp_path / "run", iterations=3, resume=True)
