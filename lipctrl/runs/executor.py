"""Runs independent jobs, here or on Ray workers; reports what failed and retries what was killed."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lipctrl.runs.files import RunError
from lipctrl.training.arguments import whole_number

Job = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How one job ended: `value` when it finished, else `error` (the reason) and `trace` (where)."""

    key: str
    value: dict[str, Any] | None
    error: str | None
    trace: str | None
    attempts: int
    seconds: float


def run_jobs(
    function: Job,
    jobs: Mapping[str, dict[str, Any]],
    *,
    workers: int = 2,
    address: str | None = None,
    max_retries: int = 2,
) -> Iterator[Outcome]:
    """Yield the outcome of every job as soon as it is known.

    An exception that a job raises would be raised again, so it is reported and not retried. A job whose worker died
    (killed, out of memory, node lost) starts again, up to `max_retries` times.

    Parameters
    ----------
    function : a job's settings -> its result; importable by name on every worker.
    workers : Ray workers to start on this machine; 0 runs everything in this process, without Ray.
    address : of a running Ray cluster ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001"); all of its CPUs are used
        then. Where the cluster asks for a token, RAY_AUTH_MODE=token must be set, except for "auto".

    Raises
    ------
    ValueError
        For negative numbers, an address together with workers=0, or one where no cluster answers.
    ImportError
        When Ray is needed and not installed.
    RunError
        When Ray itself ends on this machine.
    """
    workers, max_retries = whole_number(workers, "workers"), whole_number(max_retries, "max_retries")
    if address is not None and not isinstance(address, str):
        raise ValueError(f"address is {address!r}; expected that of a Ray cluster, such as '10.0.0.1:6379'")
    if workers == 0 and address is not None:
        raise ValueError("workers=0 runs in this process, and an address was given; leave one of them out")
    if workers == 0:
        return _run_here(function, jobs)
    return _run_on_ray(function, jobs, workers, address, max_retries)


def _run_here(function: Job, jobs: Mapping[str, dict[str, Any]]) -> Iterator[Outcome]:
    for key, job in jobs.items():
        start = time.perf_counter()
        try:
            value, error, trace = function(job), None, None
        except Exception as failure:  # reported with its trace in the outcome, by contract
            value, error, trace = None, _reason(failure), traceback.format_exc()
        yield Outcome(key, value, error, trace, 1, time.perf_counter() - start)


def _reason(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}"


def _import_ray() -> Any:
    # Ray reports usage to its makers unless told not to; that is the user's choice to make, not ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "sweeps on several workers need Ray; install it with: pip install 'lipctrl[ray]', or pass workers=0"
        ) from error
    return ray


def _knock(address: str | None) -> None:
    """Raise a ConnectionError if nothing listens at HOST:PORT, where Ray would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error


def _run_on_ray(
    function: Job, jobs: Mapping[str, dict[str, Any]], workers: int, address: str | None, max_retries: int
) -> Iterator[Outcome]:
    ray = _import_ray()
    ours = not ray.is_initialized()
    if ours:
        # "local", not nothing: without an address Ray joins a cluster that was started here, dead ones included.
        size = {"address": "local", "num_cpus": workers} if address is None else {"address": address}
        try:
            _knock(address)
            ray.init(include_dashboard=False if address is None else None, log_to_driver=False, **size)
        except ConnectionError as error:
            raise ValueError(
                f"address is {address!r}, and no Ray cluster answers there ({error}); start one with "
                "'ray start --head' and give the address that it prints, or 'auto' on one of its machines. "
                "To an address, Ray sends its token only if told to: where the cluster asks for one (its start says "
                "'Token authentication is enabled'), set the environment variable RAY_AUTH_MODE=token"
            ) from error
    try:
        slots = workers if address is None else max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Retries are counted and reported here, not hidden inside Ray.
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        with _naming_the_end_of(ray):
            yield from _schedule(ray, remote, jobs, slots, max_retries)
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _naming_the_end_of(ray: Any) -> Iterator[None]:
    """Turn the end of Ray itself on this machine, which no retry survives, into a RunError."""
    try:
        yield
    except (ray.exceptions.LocalRayletDiedError, ray.exceptions.RaySystemError) as error:
        raise RunError(
            f"Ray's own process on this machine ended ({type(error).__name__}), and the sweep with it. Finished runs "
            "are kept: start it again into the same folder (--out), and it goes on with the others"
        ) from error


def _schedule(
    ray: Any, remote: Any, jobs: Mapping[str, dict[str, Any]], slots: int, max_retries: int
) -> Iterator[Outcome]:
    died = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    waiting = deque((key, 1) for key in jobs)
    running: dict[Any, tuple[str, int]] = {}
    started: dict[str, float] = {}
    while waiting or running:
        # No more than the slots at a time: a worker that dies then takes exactly one job with it.
        while waiting and len(running) < slots:
            key, attempt = waiting.popleft()
            started.setdefault(key, time.perf_counter())
            running[remote.remote(jobs[key])] = (key, attempt)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        key, attempt = running.pop(ready)
        value = error = trace = None
        try:
            value = ray.get(ready)
        except died as failure:
            if attempt <= max_retries:
                waiting.appendleft((key, attempt + 1))
                continue
            error = f"the worker died in all of {attempt} attempts ({type(failure).__name__})"
        except ray.exceptions.RayTaskError as failure:
            error, trace = _reason(failure.cause), str(failure)
        yield Outcome(key, value, error, trace, attempt, time.perf_counter() - started[key])
