"""The pictures of the gallery: each has a script, a section, and a script that still draws it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "docs" / "gallery").glob("*.py"))
# These train networks; the others draw in a second or two.
SLOW = {"pareto", "training", "depth", "basin"}


def load_drawer():
    spec = importlib.util.spec_from_file_location("make_gallery", ROOT / "docs" / "make_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw


@pytest.mark.parametrize(
    "script",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in SCRIPTS],
    ids=lambda p: p.stem,
)
def test_script_draws(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = load_drawer()(script, tmp_path)
    pixels = matplotlib.image.imread(picture)[..., :3]
    # A picture and not an empty sheet: ink, and more than one colour of it.
    assert (pixels.min(axis=-1) < 0.9).mean() > 0.01
    assert np.ptp(pixels, axis=-1).max() > 0.3


def test_every_script_has_a_picture_and_a_section():
    page = (ROOT / "docs" / "gallery.md").read_text()
    for script in SCRIPTS:
        picture = script.with_suffix(".png")
        assert f"gallery/{picture.name}" in page
        # Exactly so: the site then shows the script itself.
        assert f'--8<-- "gallery/{script.name}"' in page
        assert 5_000 < picture.stat().st_size < 400_000
