"""How work in progress looks: one live bar on a terminal, a few plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from glomtile.cli.flags import FLAGS

if TYPE_CHECKING:
    from glomtile.types import Progress

LINE_EVERY_S = 15.0
"""A log gets a status line no oftener than this, and none of a stage that ends before; notes and warnings
at once."""


@contextmanager
def watching(stream: TextIO | None = None) -> Iterator[Progress]:
    """Show a verb's progress on stderr while the block runs.

    Parameters
    ----------
    stream : text stream, optional
        Where to show it; ``sys.stderr`` when left out. A terminal gets a live bar, anything else plain lines.

    Yields
    ------
    Progress
        To hand to the verb; the bar is gone when the block ends, however it ends.
    """
    stream = sys.stderr if stream is None else stream
    display: PlainProgress
    if FLAGS.get().quiet:
        display = WarningsOnly(stream)
    elif stream.isatty():
        from glomtile.cli.livebar import LiveProgress

        display = LiveProgress(stream)
    else:
        display = PlainProgress(stream)
    try:
        yield display
    finally:
        display.close()


class PlainProgress:
    """Progress as lines: notes and warnings at once, where the work stands now and then.

    Parameters
    ----------
    stream : text stream
        Where the lines go.
    clock : callable, optional
        Seconds since anything; replaced in tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.RLock()
        self._title: str | None = None
        self._total: int | None = None
        self._done = 0
        self._figures: dict[str, float | str] = {}
        self._began = self._told = clock()
        self._spoken_of = False

    def start(self, title: str, total: int | None = None) -> None:
        """End the stage before, if any, and begin a new one."""
        with self._lock:
            self._hide()
            self._title, self._total, self._done, self._figures = title, total, 0, {}
            self._began = self._clock()
            self._spoken_of = False
            self._show()

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count `steps` more; `figures` replace those of the same name."""
        with self._lock:
            self._done += steps
            self._figures.update(figures)
            self._show_step()

    def note(self, text: str) -> None:
        """Keep one line."""
        self._line(text)

    def warn(self, text: str) -> None:
        """Keep one line that asks for action."""
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
        if now - self._told >= LINE_EVERY_S and self._done != self._total:
            self._told, self._spoken_of = now, True
            self._line(f"{self._title}: {self._count()}{self._left(now)}{shown(self._figures)}")

    def _hide(self) -> None:
        """Tell where a long stage ended."""
        now = self._clock()
        if self._title is not None and (self._spoken_of or now - self._began >= LINE_EVERY_S):
            self._told = now
            count = f"{self._count()} in " if self._done or self._total else ""
            self._line(f"{self._title}: {count}{duration(now - self._began)}{shown(self._figures)}")

    def _count(self) -> str:
        return f"{self._done} of {self._total}" if self._total is not None else f"{self._done} done"

    def _left(self, now: float) -> str:
        if not self._total or not 0 < self._done < self._total:
            return ""
        left = (now - self._began) / self._done * (self._total - self._done)
        return f", {duration(left)} left"

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


def duration(seconds: float) -> str:
    """Seconds in words short enough for a status line.

    Examples
    --------
    >>> duration(0.24), duration(42), duration(190), duration(7500)
    ('0.2 s', '42 s', '3:10 min', '2:05 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


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
