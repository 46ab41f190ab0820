"""Every public name has its place on exactly one API page."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "api"


def _members(module: ModuleType) -> list[object]:
    """Return what the page of a whole module shows: what it offers, or what it defines and does not hide."""
    offered = getattr(module, "__all__", None)
    if offered is None:
        own = vars(module).items()
        return [v for k, v in own if k[0] != "_" and getattr(v, "__module__", "") == module.__name__]
    # A name that a file of the package shares is shown as that file, that is not at all.
    files = getattr(module, "__path__", None)
    return [
        getattr(module, name)
        for name in offered
        if not (files and importlib.util.find_spec(f"{module.__name__}.{name}"))
    ]


def _listed() -> Counter[int]:
    """Return how often each object stands on the pages, by itself or with its whole module."""
    found: Counter[int] = Counter()
    for page in PAGES.glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            room, _, name = path.rpartition(".")
            try:
                found.update(id(member) for member in _members(importlib.import_module(path)))
            except ModuleNotFoundError:
                found[id(getattr(importlib.import_module(room), name))] += 1
    return found


@pytest.mark.parametrize(
    "package",
    [
        "lipctrl",
        "lipctrl.analysis",
        "lipctrl.bounds",
        "lipctrl.nn",
        "lipctrl.plots",
        "lipctrl.rules",
        "lipctrl.runs",
        "lipctrl.training",
        "lipctrl_envs",
    ],
)
def test_public_names_stand_on_one_page(package):
    listed, module = _listed(), importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    public = {
        name: value for name, value in public.items() if inspect.isroutine(value) or inspect.isclass(value)
    }
    assert public
    assert {name: listed[id(value)] for name, value in public.items() if listed[id(value)] != 1} == {}


def test_the_page_of_networks_names_every_parametrisation_and_activation():
    from lipctrl import activations
    from lipctrl.nn.resnet import TRUNKS

    page = (PAGES / "networks.md").read_text(encoding="utf-8").split(":::")[0]
    rows = re.findall(r"^\| (`.*`) \| \[", page, re.M)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(TRUNKS)
    plain, families = re.findall(r"^- (`.*?)(?:;|: another)", page, re.M | re.S)
    assert re.findall(r"`(\w+)`", plain) == list(activations._PLAIN)
    listed = re.findall(r"`(\w+)` \(([\w, ]+)\)", families)
    assert [(name, words.split(", ")) for name, words in listed] == [
        (name, list(fields)) for name, (_, fields) in activations._FAMILIES.items()
    ]
