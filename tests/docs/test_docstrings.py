"""The examples in docstrings run, and the docstrings turn into the pages that their authors meant."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[2]
# Classes that a newcomer meets first.
SHOWN_CLASSES = {
    "LipschitzResNet",
    "ResidualPolicy",
    "LipschitzPolicy",
    "IncrementalBall",
    "Pendulum",
    "CartPole",
}
# Modules whose import asks for an optional package.
OPTIONAL = {"lipctrl.training.sb3": "stable_baselines3"}


def modules() -> list[str]:
    out = []
    for package in ("lipctrl", "lipctrl_envs"):
        root = importlib.import_module(package)
        out += [package, *(m.name for m in pkgutil.walk_packages(root.__path__, f"{package}."))]
    return sorted(name for name in out if not name.endswith("__main__"))


@pytest.mark.parametrize("name", modules())
def test_examples_run(name, tmp_path, monkeypatch):
    needed = OPTIONAL.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    report: list[str] = []
    for test in finder.find(module, name):
        runner.run(test, out=report.append)
    pyplot.close("all")
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_no_public_name_is_hidden_by_a_file_of_the_same_name():
    """Importing the file `package/name.py` would replace the function `package.name` by the module."""
    for package in (
        "lipctrl",
        "lipctrl.analysis",
        "lipctrl.bounds",
        "lipctrl.nn",
        "lipctrl.plots",
        "lipctrl.runs",
    ):
        module = importlib.import_module(package)
        files = {m.name for m in pkgutil.iter_modules(module.__path__)}
        rooms = set(getattr(module, "_ROOMS", ()))
        assert not (files & set(module.__all__)) - rooms, package


def test_the_map_of_the_analysis_names_every_file():
    """A room of so many files has a map in its docstring: each file once, and none that is gone."""
    package = importlib.import_module("lipctrl.analysis")
    _, _, groups = (package.__doc__ or "").partition("\n- ")
    named = [
        word
        for group in groups.split("\n- ")
        for word in re.findall(r"[a-z][a-z0-9_]*", group.partition(": ")[2])
    ]
    assert sorted(named) == sorted(m.name for m in pkgutil.iter_modules(package.__path__))


@pytest.mark.parametrize(
    "name", ["lipctrl", "lipctrl.plots", "lipctrl.training", "lipctrl.nn", "lipctrl_envs"]
)
def test_public_functions_show_how_they_are_used(name):
    package = importlib.import_module(name)
    public = {n: getattr(package, n) for n in package.__all__}
    shown = {n: value for n, value in public.items() if inspect.isfunction(value) or n in SHOWN_CLASSES}
    assert len(shown) > 1
    assert [n for n, value in shown.items() if ">>>" not in (inspect.getdoc(value) or "")] == []


def load_converter():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.to_markdown


def test_house_style_becomes_markdown():
    text = "Claim.\n\nParameters\n----------\nx, y : shape (n,),\n    in metres.\n*runs : some.\n\nThe rest.\n\n" \
        "Raises\n------\nValueError\n    For NaN.\n\nExamples\n--------\n>>> 1 + 1\n2"  # fmt: skip
    assert load_converter()(text) == (
        "Claim.\n\n\n**Parameters**\n\n- **x, y** — shape (n,), in metres.\n- **\\*runs** — some.\n\nThe rest.\n\n\n"
        "**Raises**\n\n- **ValueError** — For NaN.\n\n\n**Examples**\n\n\n```pycon\n>>> 1 + 1\n2\n```"
    )


def test_items_that_share_a_line_become_items_of_a_list():
    text = (
        "Parameters common to all\n----------\na : of m; b, c : of s.\n\n"
        "Raises\n------\nTypeError : for words.\nSource: a paper."
    )
    assert load_converter()(text) == (
        "**Parameters common to all**\n\n- **a** — of m\n- **b, c** — of s.\n\n\n"
        "**Raises**\n\n- **TypeError** — for words.\n\nSource: a paper."
    )


def test_subscripts_of_norms_are_no_emphasis():
    assert load_converter()("‖x‖_P ≤ ‖y‖_P") == r"‖x‖\_P ≤ ‖y‖\_P"
