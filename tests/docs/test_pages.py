"""Every Python block of README and docs runs; every command line in them parses; links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return (line number, code) of the fenced blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 2, m[3]) for m in FENCE.finditer(text) if m[2] == language]


# The scripts of the gallery are included from files, which tests/docs/test_gallery.py runs.
WITH_PYTHON = [page for page in PAGES if page.name != "gallery.md" and blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    """Blocks of one page share their names, as a reader would type them one after the other."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for line, code in blocks(page, "python"):
        # Line numbers of the page, so that a failure points at it.
        exec(compile("\n" * (line - 1) + code, str(page), "exec", dont_inherit=True), namespace)


def commands() -> list[tuple[str, list[str]]]:
    out = []
    for page in PAGES:
        for _, text in blocks(page, "console"):
            for line in text.splitlines():
                if line.startswith("$ "):
                    out.append((name_of(page), shlex.split(line[2:], comments=True)))
    return out


def test_commands_are_known():
    """Every `lipctrl` line names a known command and options, every `make` line a target, `python` a script."""
    import typer.main

    from lipctrl.cli.app import app

    group = typer.main.get_command(app)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    seen = 0
    for page, words in commands():
        if words[0] == "make":
            assert set(words[1:]) <= targets, (page, words)
        elif words[0] == "lipctrl":
            command = group.commands[words[1]]
            context = command.make_context(words[1], [*words[2:]], resilient_parsing=False)
            context.close()
            seen += 1
        else:
            assert words[0] in ("pip", "python"), (page, words)
            if words[0] == "python":
                script = words[1] if words[1] != "-m" else words[2].replace(".", "/")
                assert any(
                    (ROOT / end).is_file() for end in (script, f"{script}.py", f"{script}/__main__.py")
                )
    assert seen > 10


def test_every_kind_of_picture_is_listed():
    from lipctrl.plots import RUN_FIGURES

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.MULTILINE)
    assert listed == [(kind, shows) for kind, (shows, _) in RUN_FIGURES.items()]


def test_help_names_every_kind_of_picture():
    import typer.main

    from lipctrl.cli.app import app
    from lipctrl.plots import RUN_FIGURES

    (argument,) = (p for p in typer.main.get_command(app).commands["plot"].params if p.name == "kind")
    assert argument.help.rstrip(".").split() == list(RUN_FIGURES)


def test_the_table_of_environments_is_the_registry():
    import gymnasium

    import lipctrl_envs  # noqa: F401 (registers them)

    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+-v\d)` \| .+ \| (\d+), (\d+) \| ([\d.]+) \| (\w+)", page, re.MULTILINE)
    listed = {name: tuple(row) for name, *row in rows}
    expected = {}
    for name in (n for n in gymnasium.registry if n.startswith("lipctrl/")):
        plant = gymnasium.make(name).unwrapped.plant
        form = "exact" if plant.lure_form().exact else "bounds"
        expected[name.removeprefix("lipctrl/")] = (
            str(plant.state_size),
            str(plant.action_size),
            f"{plant.dt:g}",
            form,
        )
    assert listed == expected


def test_links_and_pictures_exist():
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{name_of(page)} points to {target}"


def anchor(heading: str) -> str:
    """Return the anchor that mkdocs gives a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
    return re.sub(r"[-\s]+", "-", words)


def test_links_into_pages_end_at_a_heading():
    texts = {page.resolve(): FENCE.sub("", page.read_text(encoding="utf-8")) for page in PAGES}
    anchors = {p: {anchor(h) for h in re.findall(r"^#+ (.+)$", t, re.MULTILINE)} for p, t in texts.items()}
    seen = 0
    for page, text in texts.items():
        for target, name in re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", text):
            assert name in anchors[(page.parent / target).resolve() if target else page], (
                page.name,
                target,
                name,
            )
            seen += 1
    assert seen > 5


def test_pages_are_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in nav


@pytest.mark.slow
def test_the_site_builds_strictly_and_offline(tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "plots.loop_response" in re.sub("<[^>]+>", "", (tmp_path / "gallery" / "index.html").read_text())
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text()
        )
        assert [u for u in fetched if "canonical" not in u] == [], page
