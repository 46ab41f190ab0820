"""One member of a sweep: trained, evaluated and analysed on a worker, from settings that travel as plain values."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import Any

from lipctrl.runs.files import write_json
from lipctrl.runs.table import Row


def train_one(job: Row) -> Row:
    """Train, evaluate and analyse the policy of one point of a sweep; runs on a worker.

    Continues from the folder's last checkpoint when an earlier attempt left one; a training that has ended is evaluated
    again, on the episodes that the sweep asks for now.
    """
    from lipctrl.runs.design import design_policy
    from lipctrl.runs.loop import ALGORITHMS, Schedule, train
    from lipctrl.training.environments import find_task

    folder = Path(job["folder"])
    write_json(folder / "worker.json", {"pid": os.getpid(), "host": socket.gethostname()})
    task = find_task(job["env_id"], job["env_options"])
    design = design_policy(
        task,
        **{
            name: job[name]
            for name in ("lipschitz", "parametrization", "width", "depth", "activation", "seed")
        },
        trainable_lipschitz=job["trade_off"] is not None,
    )
    price = {} if job["trade_off"] is None else {"gain_price": job["trade_off"]}
    continued = (folder / "checkpoint.safetensors").exists()
    run = train(
        job["env_id"],
        design.policy,
        job["algorithm"],
        job["steps"],
        job["seed"],
        out=folder,
        resume=continued,
        config=ALGORITHMS[job["algorithm"]].Config(**job["settings"], **price),
        schedule=Schedule(
            **job["schedule"], evaluation_episodes=job["episodes"], evaluation_seed=job["evaluation_seed"]
        ),
        env_options=job["env_options"],
        guarantee=design.guarantee,
        progress=False,
    )
    certificate = run.certificate
    return {
        "mean_return": run.evaluation["mean_return"],
        "standard_error": run.evaluation["standard_error"],
        "episodes": run.evaluation["episodes"],
        "evaluation_seed": run.evaluation["seed"],
        "certified_gain": certificate.gain,
        "certified_radius": certificate.radius,
        **_margins(task.plant, certificate),
    }


def _margins(plant: Any, certificate: Any) -> Row:
    """Return the verdict on the linearised loop and, where it is certified, its incremental gain margin."""
    if plant is None:
        return {}
    from lipctrl.analysis import analyze

    report = analyze(plant.linearize(), certificate)
    if str(report.verdict) != "certified":
        return {"verdict": str(report.verdict)}
    margin = report.incremental_gain_margin
    return {
        "verdict": str(report.verdict),
        "margin_lower": float(margin.lower),
        "margin": float(margin.upper) if math.isfinite(margin.upper) else None,
    }
