"""Sweeps: every run in the table, failures said, killed workers retried, finished runs kept."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import lipctrl
from lipctrl.runs import executor
from lipctrl.runs.executor import run_jobs
from lipctrl.runs.files import RunError
from lipctrl.runs.sweeps import Range, sweep

PENDULUM = "lipctrl/Pendulum-v0"
QUICK: dict[str, Any] = {"steps": 1, "episodes": 4, "width": 4, "depth": 1, "workers": 0}


# -- the choice of runs ------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **arguments: Any) -> list[dict[str, Any]]:
    """Return the settings of a sweep's jobs; training is replaced by a stand-in."""
    jobs: list[dict[str, Any]] = []

    def stand_in(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        return {"mean_return": 0.0, "standard_error": 0.0, "certified_gain": 1.0, "margin": 1.0}

    monkeypatch.setattr("lipctrl.runs.sweeps.train_one", stand_in)
    sweep(PENDULUM, out=tmp_path / "sweep", workers=0, **arguments)
    return jobs


def test_grid_is_the_product_of_its_axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = {"lipschitz": [0.5, 1.0], "seed": [0, 1], "parametrization": ["lossless", "gershgorin"]}
    jobs = recorded(monkeypatch, tmp_path, grid=grid)
    chosen = {(j["lipschitz"], j["seed"], j["parametrization"]) for j in jobs}
    assert len(jobs) == len(chosen) == 8
    assert len({j["folder"] for j in jobs}) == 8


def test_random_draws_distinct_runs_and_repeats_with_its_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grid = {"lipschitz": Range(0.1, 10.0), "seed": [0, 1]}
    one, two = (
        recorded(monkeypatch, tmp_path / name, grid=grid, random=6, sweep_seed=3) for name in ("a", "b")
    )
    values = [j["lipschitz"] for j in one]
    assert values == [j["lipschitz"] for j in two]
    assert len(set(values)) == 6
    assert all(0.1 <= v <= 10.0 for v in values)
    # Ranges of whole numbers are drawn whole, and a short one has no more than it has.
    whole = recorded(
        monkeypatch, tmp_path / "whole", grid={"width": Range(2.0, 4.0), "seed": [3.0]}, random=9
    )
    assert sorted((j["width"], j["seed"]) for j in whole) == [(2, 3), (3, 3), (4, 3)]
    narrow = recorded(monkeypatch, tmp_path / "narrow", grid={"lipschitz": Range(1.0, 1.0001)}, random=4)
    assert [j["lipschitz"] for j in narrow] == [1.0]
    # More runs than there are combinations: each once.
    assert len(recorded(monkeypatch, tmp_path / "c", grid={"seed": [0, 1, 2]}, random=50)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": {"colour": [1]}}, "unknown axes"),
        ({"grid": {"seed": []}}, "at least one value"),
        ({"grid": {"algorithm": "apg"}}, "expected a list"),
        ({"grid": {"lipschitz": Range(1.0, 2.0)}}, "random="),
        ({"grid": {"algorithm": ["magic"]}}, "algorithm is 'magic'; expected auto or one of"),
        ({"grid": {"parametrization": ["magic"]}}, "parametrization is 'magic'; expected one of"),
        ({"grid": {"seed": ["a"]}}, "seed is 'a'; expected a whole number, at least 0"),
        ({"grid": {"width": [8, 0]}}, "width is 0; expected a whole number, at least 1"),
        ({"grid": {"depth": [1.5]}}, "depth is 1.5"),
        ({"grid": {"lipschitz": ["auto", -1.0]}}, "lipschitz is -1.0; expected a positive"),
        ({"grid": {"lipschitz": [True]}}, "lipschitz is True"),
        ({"grid": {"trade_off": ["x"]}}, "trade_off is 'x'"),
        ({"grid": {"env_id": ["NoSuchEnv-v0"]}}, "no environment"),
        ({"random": 0}, "random is 0; expected a whole number, at least 1"),
        ({"workers": -1}, "workers is -1; expected a whole number, at least 0"),
        ({"workers": 0, "address": "auto"}, "address"),
    ],
)
def test_errors_come_before_any_training(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipctrl.runs.sweeps.train_one", lambda job: pytest.fail("training has begun"))
    with pytest.raises(ValueError, match=message):
        sweep(PENDULUM, out=tmp_path, **{"workers": 0, **arguments})


def test_ranges_have_a_low_and_a_high_end() -> None:
    with pytest.raises(ValueError, match="low < high"):
        Range(2.0, 1.0)
    with pytest.raises(ValueError, match="low < high"):
        Range(0.0, 1.0)


# -- running -----------------------------------------------------------------------------------------


def test_runs_end_in_folders_certificates_and_one_table(tmp_path: Path) -> None:
    seen: list[str] = []
    result = sweep(
        PENDULUM,
        grid={"lipschitz": ["auto", 1e9], "seed": [0]},
        out=tmp_path,
        on_result=lambda r: seen.append(r["status"]),
        **QUICK,
    )
    good, bad = result.rows
    assert seen == ["done", "failed"]
    assert good["verdict"] == "certified"
    assert good["margin"] > 1.0
    certificate = lipctrl.load_certificate(Path(good["folder"]) / "certificate.json")
    assert lipctrl.check(certificate).ok
    assert good["certified_gain"] == certificate.gain
    # A budget beyond the stability radius cannot be certified: that run failed, and the sweep says so.
    assert bad["status"] == "failed"
    assert "stability radius" in bad["error"]
    assert "Traceback" in bad["trace"]
    assert json.loads((tmp_path / "sweep.json").read_text()) == list(result.rows)
    assert "stability radius" in str(result)


def test_finished_runs_are_kept_and_failed_ones_run_again(tmp_path: Path) -> None:
    grid = {"seed": [0, 1]}
    first = sweep(PENDULUM, grid=grid, out=tmp_path, **QUICK)
    spoiled = [dict(r) for r in first.rows]
    spoiled[1]["status"] = "failed"
    (tmp_path / "sweep.json").write_text(json.dumps(spoiled))
    ran: list[int] = []
    again = sweep(
        PENDULUM, grid={"seed": [0, 1, 2]}, out=tmp_path, on_result=lambda r: ran.append(r["seed"]), **QUICK
    )
    assert ran == [1, 2]
    assert again.rows[0] == first.rows[0]
    assert [r["status"] for r in again.rows] == ["done"] * 3
    with pytest.raises(RunError, match="resume=True"):
        sweep(PENDULUM, grid=grid, out=tmp_path, resume=False, **QUICK)
    for damaged in ("[1]", '{"key": 1}', '[{"status": "done"}]'):
        (tmp_path / "sweep.json").write_text(damaged)
        with pytest.raises(RunError, match="is not the table of a sweep; remove it"):
            sweep(PENDULUM, grid=grid, out=tmp_path, **QUICK)


def evaluation_of(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(row["folder"]) / "evaluation.json").read_text())


def test_all_runs_are_evaluated_on_the_same_unseen_episodes(tmp_path: Path) -> None:
    result = sweep(PENDULUM, grid={"seed": [0, 1], "lipschitz": [1e-3]}, out=tmp_path, **QUICK)
    one, two = map(evaluation_of, result.rows)
    assert one["reset_seeds"] == two["reset_seeds"]
    # Residuals of gain 1e-3 are next to nothing: episodes differ by their starts, and those are common.
    spread = max(one["returns"]) - min(one["returns"])
    assert max(abs(a - b) for a, b in zip(one["returns"], two["returns"], strict=True)) < 0.1 * spread
    assert "returns over 4 unseen episodes (seed 1)" in str(result)
    streams = [json.loads((Path(r["folder"]) / "config.json").read_text())["streams"] for r in result.rows]
    assert not {1, *one["reset_seeds"]} & {seed for s in streams for seed in s.values()}
    # A row can be repeated by hand.
    repeated = lipctrl.training.evaluate(
        lipctrl.load_run(result.rows[0]["folder"]).policy, PENDULUM, episodes=4, seed=1
    )
    assert repeated.mean == result.rows[0]["mean_return"]


def test_runs_evaluated_on_other_episodes_are_evaluated_again_and_not_trained_again(tmp_path: Path) -> None:
    first = sweep(PENDULUM, grid={"seed": [0, 1]}, out=tmp_path, **QUICK)
    old = [{k: v for k, v in row.items() if k not in ("episodes", "evaluation_seed")} for row in first.rows]
    old[0]["mean_return"] = -123.0
    (tmp_path / "sweep.json").write_text(json.dumps(old))
    weights = [(Path(row["folder"]) / "weights.safetensors").read_bytes() for row in first.rows]
    again = sweep(PENDULUM, grid={"seed": [0, 1]}, out=tmp_path, **QUICK)
    assert [r["mean_return"] for r in again.rows] == [r["mean_return"] for r in first.rows]
    other = sweep(PENDULUM, grid={"seed": [0, 1]}, out=tmp_path, evaluation_seed=7, **QUICK)
    assert [evaluation_of(r)["seed"] for r in other.rows] == [7, 7]
    assert [r["mean_return"] for r in other.rows] != [r["mean_return"] for r in first.rows]
    assert len({row["folder"] for row in (*first.rows, *again.rows, *other.rows)}) == 2
    assert weights == [(Path(row["folder"]) / "weights.safetensors").read_bytes() for row in first.rows]
    lines = [(Path(row["folder"]) / "metrics.csv").read_text().count("\n") for row in first.rows]
    assert lines == [2, 2]


def test_a_sweep_over_the_price_of_the_gain_with_settings_of_its_own(tmp_path: Path) -> None:
    result = sweep(
        "lipctrl/Pendulum-v0",
        grid={"trade_off": [0.0, 30.0]},
        settings={"environments": 4, "horizon": 8, "policy_rate": 0.1, "value_epochs": 1},
        steps=1280,
        width=4,
        depth=1,
        episodes=2,
        workers=0,
        out=tmp_path,
        env_options={"mass": 0.5},
    )
    free, priced = result.rows
    assert not result.failures
    assert priced["certified_radius"] < 0.9 * free["certified_radius"]
    assert priced["margin"] > free["margin"]
    assert {point.name for point in result.points()} == {"price 0", "price 30"}
    config = json.loads((Path(free["folder"]) / "config.json").read_text())
    assert (config["settings"]["environments"], config["env_options"]) == (4, {"mass": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"rate": 1.0}}, "apg has no setting 'rate'"),
        ({"settings": {"rate": 1.0}}, "the schedule has .*patience"),
        ({"settings": {"environments": 0}}, "setting environments is 0"),
        ({"settings": {"patience": 0}}, "schedule patience is 0"),
        ({"settings": {"target_return": "high"}}, "schedule target_return is 'high'"),
        ({"settings": {"evaluation_episodes": 7}}, "give it episodes="),
        ({"episodes": 0}, "episodes is 0; expected a whole number, at least 1"),
        ({"trade_off": -1.0}, "setting gain_price is -1.0"),
    ],
)
def test_settings_of_a_sweep_are_looked_at_first(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep("lipctrl/Pendulum-v0", workers=0, out=tmp_path / "none", **arguments)
    assert not (tmp_path / "none").exists()


def test_a_sweep_takes_the_schedule_of_its_runs_too(tmp_path: Path) -> None:
    settings = {"environments": 4, "checkpoint_every": 3, "validation_episodes": 2}
    (row,) = sweep(PENDULUM, grid={"seed": [0]}, settings=settings, out=tmp_path, **QUICK).rows
    config = json.loads((Path(row["folder"]) / "config.json").read_text())
    assert config["settings"]["environments"] == 4
    assert (config["schedule"]["checkpoint_every"], config["schedule"]["validation_episodes"]) == (3, 2)
    (other,) = sweep(PENDULUM, grid={"seed": [0]}, settings={"environments": 4}, out=tmp_path, **QUICK).rows
    assert other["folder"] != row["folder"]


def test_other_settings_are_other_runs(tmp_path: Path) -> None:
    sweep(PENDULUM, grid={"seed": [0]}, out=tmp_path, **QUICK)
    ran: list[str] = []
    sweep(
        PENDULUM,
        grid={"seed": [0]},
        out=tmp_path,
        env_options={"mass": 0.5},
        on_result=lambda r: ran.append(r["key"]),
        **QUICK,
    )
    assert len(ran) == 1


def test_a_third_party_environment_has_no_margin_but_a_gain(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    result = sweep(
        "InvertedPendulum-v5", grid={"seed": [0]}, algorithm="ppo", out=tmp_path, lipschitz=3.0, **QUICK
    )
    (only,) = result.rows
    assert only["status"] == "done", only["error"]
    assert only["verdict"] is None
    assert only["margin"] is None
    assert only["certified_gain"] <= 3.0 * (1.0 + 1e-3)
    assert "no plant" in str(result)


def test_the_extra_is_named_when_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"lipctrl\[ray\]"):
        list(run_jobs(len, {"a": {}}, workers=1))


def test_an_interrupt_is_not_a_failure() -> None:
    def stop(job: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(stop, {"a": {}}, workers=0))


# -- Ray ---------------------------------------------------------------------------------------------


def _kill_a_worker(folder: Path, killed: list[int], done: threading.Event) -> None:
    """Send SIGKILL to the first worker that has saved a checkpoint and is still training."""
    while not done.is_set():
        for checkpoint in folder.glob("*/checkpoint.safetensors"):
            run = checkpoint.parent
            if not (run / "evaluation.json").exists():
                killed.append(json.loads((run / "worker.json").read_text())["pid"])
                os.kill(killed[0], signal.SIGKILL)
                return
        time.sleep(0.01)


class _RayThatOnlyConnects:
    """Stands for Ray up to the connection, which it refuses."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.asked = options
        raise ConnectionError("refused")


@pytest.mark.parametrize(
    ("address", "asked"), [(None, "local"), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_a_local_sweep_joins_no_other_cluster_and_refusals_name_the_token(
    address: str | None, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = _RayThatOnlyConnects()
    monkeypatch.setattr(executor, "_import_ray", lambda: ray)
    monkeypatch.setattr(executor, "_knock", lambda address: None)
    with pytest.raises(ValueError, match="RAY_AUTH_MODE=token"):
        list(run_jobs(dict, {"a": {}}, workers=3, address=address))
    # Without an address Ray joins what was started on this machine earlier, and refuses a number of workers.
    assert ray.asked["address"] == asked
    assert ("num_cpus" in ray.asked) == (address is None)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_said_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself tries for minutes."""
    ray = _RayThatOnlyConnects()
    monkeypatch.setattr(executor, "_import_ray", lambda: ray)
    with pytest.raises(ValueError, match="no Ray cluster answers there"):
        list(run_jobs(dict, {"a": {}}, address=address))
    assert not ray.asked


def test_a_sweep_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"notes.txt is a file; runs need a folder"):
        sweep(PENDULUM, grid={"seed": [0]}, out=tmp_path / "notes.txt", **QUICK)


@pytest.mark.slow
def test_eight_runs_on_two_workers_survive_the_kill_of_one(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    killed: list[int] = []
    done = threading.Event()
    killer = threading.Thread(target=_kill_a_worker, args=(tmp_path, killed, done))
    killer.start()
    try:
        result = sweep(
            PENDULUM,
            grid={"lipschitz": ["auto", 0.5], "seed": [0, 1, 2, 3]},
            steps=60_000,
            episodes=16,
            width=8,
            depth=1,
            workers=2,
            out=tmp_path,
        )
    finally:
        done.set()
        killer.join()
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert [r["status"] for r in result.rows] == ["done"] * 8, [r["error"] for r in result.failures]
    assert sorted(r["attempts"] for r in result.rows) == [1] * 7 + [2]
    assert all(
        lipctrl.check(lipctrl.load_certificate(Path(r["folder"]) / "certificate.json")).ok
        for r in result.rows
    )
    # The run that was killed went on from its checkpoint, to the same weights as without the kill.
    (retried,) = (r for r in result.rows if r["attempts"] == 2)
    undisturbed = sweep(
        PENDULUM,
        grid={"lipschitz": [retried["lipschitz"]], "seed": [retried["seed"]]},
        steps=60_000,
        episodes=16,
        width=8,
        depth=1,
        workers=0,
        out=tmp_path / "again",
    ).rows[0]
    assert undisturbed["mean_return"] == retried["mean_return"]
