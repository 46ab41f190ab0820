"""Settings of every test: one thread a worker, and no windows."""

from __future__ import annotations

import os

# Before numpy or torch start their threads: on small tensors many threads are slower than one.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
