"""What is written after a flag, NAME=VALUE, as names and Python values."""

from __future__ import annotations

import json
from typing import Any

import typer


def value_of(text: str) -> Any:
    """Read a value as JSON, or as the word that it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def pairs(items: list[str] | None, flag: str) -> dict[str, Any]:
    """Read the items of a repeatable flag; a usage error for one that is not NAME=VALUE."""
    out = {}
    for item in items or []:
        name, equals, text = item.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{flag} {item!r}; expected NAME=VALUE")
        out[name] = value_of(text)
    return out
