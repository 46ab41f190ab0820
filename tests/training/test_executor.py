"""Jobs on workers: retried when a worker dies, reported when they fail, and told when Ray itself ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lipctrl.runs import executor
from lipctrl.runs.executor import run_jobs
from lipctrl.runs.files import RunError


@pytest.mark.slow
def test_a_job_that_always_dies_is_given_up_and_failures_carry_their_reason(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    # In a process of its own: functions of this test module are not importable on a worker.
    script = """
import json, os, signal
from lipctrl.runs.executor import run_jobs

def job(settings):
    if settings["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if settings["do"] == "fail":
        raise ValueError("this one cannot work")
    return {"answer": settings["do"]}

jobs = {name: {"do": name} for name in ("die", "fail", "work")}
outcomes = {o.key: [o.value, o.attempts, o.error] for o in run_jobs(job, jobs, workers=2, max_retries=1)}
# Not printed: Ray writes to the standard output as it pleases.
with open("outcomes.json", "w") as stream:
    json.dump(outcomes, stream)
"""
    subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path, check=True)
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    value, attempts, error = outcomes["die"]
    assert (value, attempts) == (None, 2)
    assert error.startswith("the worker died in all of 2 attempts")
    assert outcomes["fail"] == [None, 1, "ValueError: this one cannot work"]
    assert outcomes["work"] == [{"answer": "work"}, 1, None]


def test_jobs_run_in_order_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_import_ray", lambda: pytest.fail("Ray was imported"))
    outcomes = list(run_jobs(lambda job: {"twice": 2 * job["x"]}, {"a": {"x": 1}, "b": {"x": 2}}, workers=0))
    assert [(o.key, o.value) for o in outcomes] == [("a", {"twice": 2}), ("b", {"twice": 4})]
    assert all(o.error is None and o.attempts == 1 for o in outcomes)


def test_the_end_of_ray_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def get(_: Any) -> Any:
        raise ray.exceptions.LocalRayletDiedError

    class Ray:
        exceptions = ray.exceptions
        wait = staticmethod(lambda running, num_returns: (running[:1], running[1:]))

    monkeypatch.setattr(Ray, "get", staticmethod(get), raising=False)

    class Remote:
        remote = staticmethod(lambda job: "reference")

    jobs: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
    told = "Finished runs are kept: start it again into the same folder"
    with pytest.raises(RunError, match=told), executor._naming_the_end_of(Ray):
        list(executor._schedule(Ray, Remote, jobs, 1, 2))
