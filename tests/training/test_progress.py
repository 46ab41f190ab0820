"""The progress bar, as somebody at a terminal sees it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import lipctrl
from lipctrl.runs.progress import Progress


def test_the_bar_can_be_shown_at_every_moment_of_a_training() -> None:
    with Progress(96, True) as bar:
        shown = lambda: bar._bar.tasks[0].description  # noqa: E731
        bar.saved(0)
        assert shown() == "saved at 0"
        bar.know({"certified_radius": 0.5, "certified_gain": None})
        bar.saved(0)
        assert shown() == "radius ≤ 0.5 · saved at 0"
        row = {"steps": 32, "mean_return": -2.0, "certified_radius": None, "steps_per_second": 1234.0}
        bar.update(row)
        assert shown() == "return -2.0 · cost 2.0 · radius ≤ 0.5 · 1,234 steps/s · saved at 0"


def test_a_training_at_a_terminal_ends_as_one_that_is_piped(tmp_path: Path) -> None:
    # The bar appears by itself where standard error is a terminal.
    ours, theirs = pty.openpty()
    few = ("--set", "environments=4", "--set", "horizon=8", "--set", "evaluation_episodes=4")
    words = ("train", "lipctrl/Pendulum-v0", "--steps", "64", "--width", "4", *few)
    done = subprocess.Popen(
        [sys.executable, "-m", "lipctrl", *words, "--out", str(tmp_path / "run")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # Linux says so when the other end has been closed
    finally:
        os.close(ours)
    assert done.wait(timeout=120) == 0, shown.decode()
    assert "%" in shown.decode()
    assert lipctrl.load_run(tmp_path / "run").evaluation["episodes"] == 4
