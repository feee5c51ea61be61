"""What moves and has colours on a terminal: Rich is imported here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from glomtile.cli.pace import rate_words
from glomtile.cli.progress import PlainProgress, shown
from glomtile.formatting import duration

BAR_CHARS = 24
SHORT_BAR_CHARS = 12
LEAST_BAR_CHARS = 6
LEAST_FIGURES_CHARS = 8
_GAP = "  "
_TURNS = "|/-\\"


class LiveProgress(PlainProgress):
    """Progress as one line that moves, with notes and warnings above it; a finished stage leaves nothing.

    What the terminal is too narrow for is left out: figures first, then the bar, then rate and time left.

    Parameters
    ----------
    stream : text stream
        A terminal.
    clock : callable, optional
        Seconds since anything; replaced in tests.
    verbose : bool
        Leave a line of every stage.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, verbose: bool = False
    ) -> None:
        super().__init__(stream, clock, verbose=verbose)
        self._console = _console(stream)
        self._live: Live | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line as the work stands; Rich asks for it again and again."""
        yield self.line(options.max_width)

    def line(self, width: int) -> Text:
        """The line of a terminal of `width` characters."""
        # Without the lock: who stops the line holds it, and waits for Rich, whose thread is here.
        title, count = self._title or "", self._count()
        if self._total is None:
            now = self._clock()
            turn = _TURNS[int(now * 5) % len(_TURNS)]
            fixed = [f"{turn} {title}", count if self._done else "", duration(now - self._began)]
        else:
            fixed = [title, count, self._left()]
        rate = rate_words(self._pace.rate)
        figures = shown(self._figures).removeprefix(" · ")
        share = self._done / self._total if self._total else None
        return _fitted(
            width - 1, [part for part in fixed if part], rate, figures, share, _plain(self._console)
        )

    def _show(self) -> None:
        self._live = Live(self, console=self._console, transient=True, refresh_per_second=5)
        self._live.start()

    def _show_step(self) -> None:
        """The line shows each step by itself."""

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._verbose:
            super()._hide()

    def _line(self, text: str) -> None:
        self._console.print(Text(text, "yellow" if text.startswith("warning: ") else ""))


def print_styled(stream: TextIO, lines: Iterable[tuple[str, str]]) -> None:
    """Print lines in the style that each comes with, as far as the terminal has it."""
    console = _console(stream)
    for text, style in lines:
        console.print(Text(text, style))


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _plain(console: Console) -> bool:
    """Whether the terminal writes nothing but ASCII."""
    return not console.encoding.lower().startswith("utf")


def _fitted(
    width: int, fixed: list[str], rate: str, figures: str, share: float | None, ascii_only: bool
) -> Text:
    """Title, bar, count, rate, time left and figures, as many as there is room for."""
    room = width - sum(map(len, fixed)) - len(_GAP) * (len(fixed) - 1)
    if room < 0 and len(fixed) > 2:
        room += len(fixed[2]) + len(_GAP)
        fixed = fixed[:2]
    if room < 0:
        fixed = [_cut(fixed[0], len(fixed[0]) + room), *fixed[1:]]
    if rate and room >= len(rate) + len(_GAP):
        room -= len(rate) + len(_GAP)
        fixed = [*fixed[:2], rate, *fixed[2:]]
    bar = 0 if share is None else min(BAR_CHARS, room - len(_GAP))
    if figures and bar > SHORT_BAR_CHARS:
        bar = max(SHORT_BAR_CHARS, min(bar, room - len(figures) - 2 * len(_GAP)))
    line = Text(fixed[0], no_wrap=True, overflow="crop", end="")
    if share is not None and bar >= LEAST_BAR_CHARS:
        room -= bar + len(_GAP)
        whole = round(min(share, 1.0) * bar)
        full, rest = ("#", "-") if ascii_only else ("━", "╌")
        line.append(_GAP).append(full * whole, "cyan").append(rest * (bar - whole), "dim")
    for part in fixed[1:]:
        line.append(_GAP + part)
    if figures and room >= LEAST_FIGURES_CHARS + len(_GAP):
        line.append(_GAP + _cut(figures, room - len(_GAP)), "dim")
    return line


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"
