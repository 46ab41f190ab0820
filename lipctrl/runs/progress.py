"""The progress bar of a training: return, cost, proved bound and speed; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from lipctrl.certificate import bound_text


class Progress:
    """Shows what the last iteration measured; `enabled=None` shows it only on a terminal."""

    def __init__(self, total_steps: int, enabled: bool | None) -> None:
        self._total = total_steps
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bar: Any = None
        self._task: Any = None
        self._last: dict[str, float] = {}
        self._saved: int | None = None

    def __enter__(self) -> Self:
        if self._enabled:
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.BarColumn(bar_width=24),
                rich_progress.TaskProgressColumn(),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def know(self, numbers: Mapping[str, float | None]) -> None:
        """Take numbers that hold from the start, such as the bound of the initial weights."""
        self._last.update({k: v for k, v in numbers.items() if v is not None})

    def update(self, row: Mapping[str, float | int | None]) -> None:
        """Show an iteration; numbers that it did not measure keep their last value."""
        self._last.update({k: v for k, v in row.items() if v is not None})
        if self._bar is not None:
            self._bar.update(self._task, completed=row["steps"], description=self._text())

    def saved(self, iteration: int) -> None:
        """Note that everything up to an iteration is on the disk."""
        self._saved = iteration
        if self._bar is not None:
            self._bar.update(self._task, description=self._text())

    def note(self, text: str) -> None:
        """Show a line in place of the numbers."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def _text(self) -> str:
        last, words = self._last, []
        shown = last.get("validation_return", last.get("mean_return"))
        if shown is not None:
            words += [f"return {shown:.1f}", f"cost {-shown:.1f}"]
        if "certified_gain" in last:
            words.append(f"gain ≤ {bound_text(last['certified_gain'], 4)}")
        if "certified_radius" in last:
            words.append(f"radius ≤ {bound_text(last['certified_radius'], 4)}")
        if "steps_per_second" in last:
            words.append(f"{last['steps_per_second']:,.0f} steps/s")
        if self._saved is not None:
            words.append(f"saved at {self._saved}")
        return " · ".join(words)
