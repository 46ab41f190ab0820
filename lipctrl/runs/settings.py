"""Settings by name, as flags and files give them: the algorithm's and the schedule's, as the types that they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lipctrl.runs.session import Schedule

_WORDS = {int: "a whole number", float: "a number"}


def sorted_settings(
    kind: Any, settings: Mapping[str, Any], algorithm: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of an algorithm's `kind` of config, and those of the schedule, as the types that they have.

    Raises
    ------
    ValueError
        For a name that neither has, and for a value that is no number, or not whole where one is meant.

    Examples
    --------
    >>> from lipctrl.training import PPOConfig
    >>> sorted_settings(PPOConfig, {"horizon": 8.0, "rate": 1, "patience": 5}, "ppo")
    ({'horizon': 8, 'rate': 1.0}, {'patience': 5})
    """
    of_kind, of_schedule = ([f.name for f in dataclasses.fields(k)] for k in (kind, Schedule))
    unknown = set(settings) - {*of_kind, *of_schedule}
    if unknown:
        raise ValueError(
            f"{algorithm} has no setting {min(unknown)!r}; it has {', '.join(of_kind)}, and the schedule has "
            f"{', '.join(of_schedule)}"
        )
    mine = {k: v for k, v in settings.items() if k in of_kind}
    plan = {k: v for k, v in settings.items() if k in of_schedule}
    return _typed(kind, mine), _typed(Schedule, plan)


def _typed(kind: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the types that they have, whole numbers where those are meant."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for name, value in settings.items():
        default = fields[name].default
        if value is None and default is None:
            values[name] = None
            continue
        wanted = (float if name == "target_return" else int) if default is None else type(default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (wanted is int and not float(value).is_integer())
        ):
            prefix = "schedule " if kind is Schedule else "setting "
            raise ValueError(f"{prefix}{name} is {value!r}; expected {_WORDS[wanted]}")
        values[name] = wanted(value)
    return values
