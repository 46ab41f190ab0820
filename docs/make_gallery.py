"""Draws the pictures of docs/gallery from the scripts beside them: python docs/make_gallery.py [NAME …]."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

GALLERY = Path(__file__).parent / "gallery"


def draw(script: Path, folder: Path = GALLERY) -> Path:
    """Run one script and save the figure that it left as `ax`, `axes` or `figure`."""
    import numpy as np
    from matplotlib import pyplot as plt

    names = runpy.run_path(str(script))
    drawn = names.get("figure")
    if drawn is None:
        drawn = np.asarray(names.get("ax", names.get("axes")), dtype=object).ravel()[0].get_figure(root=True)
    path = folder / f"{script.stem}.png"
    drawn.savefig(path, dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close("all")
    return path


def main(names: list[str]) -> None:
    """Draw the named pictures, or all of them."""
    scripts = [GALLERY / f"{name}.py" for name in names] or sorted(GALLERY.glob("*.py"))
    for script in scripts:
        path = draw(script)
        print(f"{path.name}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
