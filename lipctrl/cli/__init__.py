"""The command line: parses, calls, prints. Every command imports what it needs when it runs."""

from __future__ import annotations

import atexit
import os
import signal
import sys

from lipctrl.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the `lipctrl` command; known errors end in one line on stderr and exit code 2."""
    # Small tensors run fastest on one thread; a user's own choice stands. Set before numpy or torch start theirs.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        app()
    except KeyboardInterrupt:
        print("lipctrl: stopped", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        if os.environ.get("LIPCTRL_TRACEBACK"):
            raise
        print(f"lipctrl: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        # Everything is done and said: a Ctrl-C while the interpreter takes itself down would only print a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
