"""What certainty costs in return, and what it saves under noise, attacks, delay and a wrong gain.

    python -m tests.benchmarks robustness                                        the tables, measured anew
    python -m tests.benchmarks.bench_robustness docs/robustness/measured.csv     measure into a file, or go on with one

`docs/robustness/draw.py` draws the curves of that file.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.robustness_study import SETTINGS, Row, label, measure

# Barbara, Wang & Manchester 2024 (arXiv 2405.11432), pendulum of MuJoCo MJX, mean of 10 seeds. Their γ leaves out the
# observation normaliser and the scaling of the action; ε, noise and dynamics are theirs.
LITERATURE = {
    "MLP": (-156, -330, -480, -415, -356),
    "γ=3": (-170, -392, -552, -205, -588),
    "γ=4": (-161, -184, -280, -171, -202),
    "γ=6": (-158, -239, -312, -167, -184),
    "γ=10": (-157, -313, -395, -258, -192),
}


@lru_cache(maxsize=2)
def results(fast: bool) -> tuple[Row, ...]:
    """Measure everything once, two policies at a time; all tables read from here."""
    return tuple(row for rows in measure(fast, min(2, os.cpu_count() or 1), set()) for row in rows)


def _grouped(rows: Any) -> dict[tuple[str, str], dict[tuple[str, float], list[Row]]]:
    """Return (environment, policy) -> (condition, level) -> rows of the seeds, in the order of the settings."""
    out: dict[tuple[str, str], dict[tuple[str, float], list[Row]]] = {}
    for setting in SETTINGS:
        for bound in (None, *setting.bounds):
            key = (setting.name, label(setting, bound))
            mine = [r for r in rows if (r["environment"], r["policy"]) == key]
            for row in sorted(mine, key=lambda r: r["seed"]):
                out.setdefault(key, {}).setdefault((row["condition"], row["level"]), []).append(row)
    return out


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def certified_against_plain(fast: bool) -> list[Row]:
    """Certified policies against an MLP of equal size: same algorithm, budget and teacher.

    Returns are means over unseen episodes of 200 steps; smallest and largest seed in brackets. `gain` is proved where
    the policy is certified, and for the MLP the largest slope met on its own trajectories.
    """
    return [
        {
            "environment": environment,
            "policy": policy,
            "gain": _spread([r["gain"] for r in found["nominal", 0.0]]),
            "certified": not policy.startswith("MLP"),
            "return": _spread([r["return"] for r in found["nominal", 0.0]]),
            "failed": float(np.mean([r["failed"] for r in found["nominal", 0.0]])),
            "seeds": len(found["nominal", 0.0]),
            "parameters": found["nominal", 0.0][0]["parameters"],
            "training CPU s": float(np.mean([r["seconds"] for r in found["nominal", 0.0]])),
        }
        for (environment, policy), found in _grouped(results(fast)).items()
    ]


def robustness(fast: bool) -> list[Row]:
    """Robustness: return lost against the same policy undisturbed, mean of the seeds, beside what the MLP loses.

    Noise σ and attacks ε (l2) are in units of the observations' sizes, on the pendulum in observation units; an attack
    is the worst of four adversaries (`lipctrl.training.worst_case`). Delays are in samples.
    """
    grouped = _grouped(results(fast))
    rows = []
    for (environment, policy), found in grouped.items():
        if policy == "MLP":
            continue
        plain = grouped[environment, "MLP"]
        for (condition, level), mine in found.items():
            if condition not in ("nominal",) and ":" not in condition:
                theirs = _losses(plain, condition, level)
                lost = _losses(found, condition, level)
                both = min(len(lost), len(theirs))
                saved = theirs[:both] - lost[:both]
                rows.append(
                    {
                        "environment": environment,
                        "policy": policy,
                        "condition": f"{condition} {level:g}",
                        "lost": float(lost.mean()),
                        "lost by the MLP": float(theirs.mean()),
                        "saved": float(saved.mean()),
                        "± standard error": float(saved.std(ddof=1) / math.sqrt(both))
                        if both > 1
                        else math.nan,
                        "worst adversaries": ", ".join(sorted({r["adversary"] for r in mine} - {""})),
                    }
                )
    return rows


def _losses(found: dict[tuple[str, float], list[Row]], condition: str, level: float) -> np.ndarray:
    base = np.array([r["return"] for r in found["nominal", 0.0]])
    return base - np.array([r["return"] for r in found[condition, level]])


def pendulum_against_literature(fast: bool) -> list[Row]:
    """Gymnasium's pendulum beside Barbara et al. 2024: return, and the return lost to attack and delay.

    Our γ is the certified gain in N·m per observation unit, observation scaling and torque limits counted; theirs
    leaves both out, their attack is a single one, and their pendulum is MuJoCo's: compare the losses, not the levels.
    """
    columns = {
        "ε .11, action": ("attack: action", 0.11),
        "ε .15, action": ("attack: action", 0.15),
        "delay 2": ("delay", 2),
        "delay 3": ("delay", 3),
        "ε .11, worst of 4": ("attack", 0.11),
    }
    rows = []
    for (environment, policy), found in _grouped(results(fast)).items():
        if environment.startswith("GymPendulum-v1"):
            lost = {
                f"lost to {name}": float(_losses(found, *key).mean()) if key in found else math.nan
                for name, key in columns.items()
            }
            nominal = found["nominal", 0.0]
            rows.append({
                "source": f"ours, {environment}", "policy": policy, "γ": _spread([r["gain"] for r in nominal]),
                "nominal": float(np.mean([r["return"] for r in nominal])), **lost,
            })  # fmt: skip
    for name, values in LITERATURE.items():
        lost = {f"lost to {c}": float(values[0] - v) for c, v in zip(columns, values[1:], strict=False)}
        rows.append({
            "source": "Barbara et al.", "policy": name, "γ": "-", "nominal": float(values[0]), **lost,
            "lost to ε .11, worst of 4": math.nan,
        })  # fmt: skip
    return rows


TABLES = {
    "certified_against_plain": certified_against_plain,
    "robustness": robustness,
    "pendulum_against_literature": pendulum_against_literature,
}
COLUMNS = (
    "environment", "policy", "seed", "gain", "parameters", "seconds",
    "condition", "level", "return", "failed", "adversary",
)  # fmt: skip


def main(path: Path, workers: int) -> None:
    """Measure into a CSV file, policy by policy; what is in it already is not measured again."""
    done = set()
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            done = {(r["environment"], r["policy"], int(r["seed"])) for r in csv.DictReader(stream)}
    for rows in measure(False, workers, done):
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer: Any = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
            )
        print(
            rows[0]["environment"], rows[0]["policy"], rows[0]["seed"], f"{rows[0]['return']:.4g}", flush=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
