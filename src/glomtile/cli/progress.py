"""How work in progress looks: one live line on a terminal, a few plain lines in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from glomtile.cli.flags import FLAGS
from glomtile.cli.pace import Pace, rate_words
from glomtile.formatting import duration

LINE_EVERY_S = 15.0
"""A log gets a status line no oftener than this, and none of a stage that ends before; notes and warnings
at once."""

VERBOSE_EVERY_S = 5.0


@contextmanager
def progress_display(stream: TextIO | None = None) -> Iterator[PlainProgress]:
    """Show a verb's progress on stderr while the block runs.

    Parameters
    ----------
    stream : text stream, optional
        Where to show it; ``sys.stderr`` when left out. A terminal gets a live line, anything else plain ones.

    Yields
    ------
    PlainProgress
        To hand to the verb; the live line is gone when the block ends, however it ends.
    """
    stream = sys.stderr if stream is None else stream
    flags = FLAGS.get()
    display: PlainProgress
    if flags.quiet:
        display = WarningsOnly(stream)
    elif can_move(stream):
        from glomtile.cli.livebar import LiveProgress

        display = LiveProgress(stream, verbose=flags.verbose)
    else:
        display = PlainProgress(stream, verbose=flags.verbose)
    try:
        yield display
    finally:
        display.close()


def can_move(stream: TextIO) -> bool:
    """Whether lines can be written again where they stand: a terminal, and none that says it cannot."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class PlainProgress:
    """Progress as lines: notes and warnings at once, where the work stands now and then.

    Parameters
    ----------
    stream : text stream
        Where the lines go.
    clock : callable, optional
        Seconds since anything; replaced in tests.
    verbose : bool
        Tell every stage's end, however quick it was, and where it stands three times as often.

    Attributes
    ----------
    warnings : list of str
        All that was warned of.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, verbose: bool = False
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._verbose = verbose
        self._lock = threading.RLock()
        self._title: str | None = None
        self._total: int | None = None
        self._done = 0
        self._figures: dict[str, float | str] = {}
        self._began = self._told = clock()
        self._pace = Pace(self._began)
        self._spoken_of = False
        self.warnings: list[str] = []

    def start(self, title: str, total: int | None = None) -> None:
        """End the stage before, if any, and begin a new one."""
        with self._lock:
            self._hide()
            self._title, self._total, self._done, self._figures = title, total, 0, {}
            self._began = self._clock()
            self._pace = Pace(self._began)
            self._spoken_of = False
            self._show()

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count `steps` more; `figures` replace those of the same name."""
        with self._lock:
            self._done += steps
            self._pace.add(self._clock(), self._done)
            self._figures = {**self._figures, **figures}
            self._show_step()

    def note(self, text: str) -> None:
        """Keep one line."""
        self._line(text)

    def warn(self, text: str) -> None:
        """Keep one line that asks for action."""
        self.warnings.append(text)
        self._line(f"warning: {text}")

    def close(self) -> None:
        """End the last stage."""
        with self._lock:
            self._hide()
            self._title = None

    def _show(self) -> None:
        pass

    def _show_step(self) -> None:
        now = self._clock()
        every = VERBOSE_EVERY_S if self._verbose else LINE_EVERY_S
        if now - self._told >= every and self._done != self._total:
            self._told, self._spoken_of = now, True
            standing = ", ".join(filter(None, (self._count(), self._rate(), self._left())))
            self._line(f"{self._title}: {standing}{shown(self._figures)}")

    def _hide(self) -> None:
        """Tell where a long stage ended."""
        now = self._clock()
        if self._title is None:
            return
        if self._spoken_of or self._verbose or now - self._began >= LINE_EVERY_S:
            self._told = now
            count = f"{self._count()} in " if self._done or self._total else ""
            self._line(f"{self._title}: {count}{duration(now - self._began)}{shown(self._figures)}")

    def _count(self) -> str:
        return f"{self._done:,} of {self._total:,}" if self._total is not None else f"{self._done:,} done"

    def _rate(self) -> str:
        return rate_words(self._pace.rate)

    def _left(self) -> str:
        left = self._pace.left(self._total)
        return "" if left is None else f"{duration(left)} left"

    def _line(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)


class WarningsOnly(PlainProgress):
    """Progress of a quiet run: warnings and nothing else."""

    def note(self, text: str) -> None:
        """Notes are not warnings."""

    def _show_step(self) -> None:
        pass

    def _hide(self) -> None:
        pass


def shown(figures: dict[str, float | str]) -> str:
    """Figures as they stand behind a status line.

    Examples
    --------
    >>> shown({"loss": 0.123456, "image": "a.png"})
    ' · loss 0.1235 · image a.png'
    """
    return "".join(
        f" · {name} {value if isinstance(value, str) else format(value, '.4g')}"
        for name, value in figures.items()
    )
