"""What objects say of themselves, believed only where lipctrl wrote it."""

from __future__ import annotations

from typing import Any


def is_ours(method: Any) -> bool:
    """Tell whether a method was written by lipctrl: another package may mean something else by its name.

    Examples
    --------
    >>> is_ours(is_ours), is_ours(len)
    (True, False)
    """
    return str(getattr(method, "__module__", "")).startswith("lipctrl.")


def plain(module: Any) -> Any:
    """Return the plain torch module that a lipctrl network exports, and any other module as it is."""
    exported = getattr(module, "export", None)
    return exported() if callable(exported) and is_ours(exported) else module
