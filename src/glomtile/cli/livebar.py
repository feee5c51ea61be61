"""The live bar of a terminal: Rich is imported here and nowhere else."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from glomtile.cli.progress import PlainProgress, shown

BAR_CHARS = 24
CLOCK_CHARS = 8
LEAST_CHARS = 8


class LiveProgress(PlainProgress):
    """Progress as one bar that moves, with notes and warnings above it; a finished stage leaves nothing.

    Parameters
    ----------
    stream : text stream
        A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None

    def _show(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR_CHARS),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=5,
        )
        self._bar.add_task(self._title or "", total=self._total, count="", figures="")
        self._bar.start()

    def _show_step(self) -> None:
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._done,
                count=self._count(),
                figures=self._fitting_figures(),
            )

    def _fitting_figures(self) -> str:
        """The figures, cut to what the line has left: Rich would rather cut the title."""
        fixed = (self._title or "", self._count(), " " * (BAR_CHARS + CLOCK_CHARS + 4))
        room = self._console.width - sum(map(len, fixed))
        text = shown(self._figures).removeprefix(" · ")
        if len(text) <= room:
            return text
        return text[: room - 1] + "…" if room >= LEAST_CHARS else ""

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str) -> None:
        self._console.print(text)
