"""Rate, time left and skipped tiles: on a terminal one line that fits it, in a log plain lines."""

from __future__ import annotations

import io
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from glomtile.cli import flags
from glomtile.cli.livebar import LiveProgress
from glomtile.cli.outcome import show_tables, terminal_width
from glomtile.cli.pace import SPAN_S, Pace
from glomtile.cli.progress import LINE_EVERY_S, VERBOSE_EVERY_S, PlainProgress, WarningsOnly, progress_display
from glomtile.cli.summaries import Table
from glomtile.cli.tables import Column
from glomtile.formatting import duration

needs_terminals = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# --- pace ---------------------------------------------------------------------------------------------


def test_a_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace(0.0)
    for second in range(1, 101):
        pace.add(second, second)
    assert pace.rate == pytest.approx(1)
    for second in range(101, 201):
        pace.add(second, 100 + (second - 100) * 5)
    assert pace.rate == pytest.approx(5, rel=5 / SPAN_S)
    assert pace.left(1000) == pytest.approx(400 / 5, rel=5 / SPAN_S)


def test_nobody_knows_a_pace_before_a_second_or_an_end_without_a_total() -> None:
    pace = Pace(0.0)
    assert pace.rate is None
    pace.add(0.5, 1)
    assert pace.rate is None
    pace.add(2.0, 4)
    assert pace.rate == pytest.approx(2)
    assert pace.left(None) is None
    assert pace.left(4) is None


def test_what_an_earlier_run_had_done_is_no_pace_of_this_one() -> None:
    pace = Pace(0.0)
    pace.add(0.1, 900)
    pace.add(10.1, 910)
    assert pace.rate == pytest.approx(1)
    assert pace.left(1000) == pytest.approx(90)


# --- logs ---------------------------------------------------------------------------------------------


def test_a_log_tells_rate_time_left_and_what_was_skipped() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock)
    progress.start("windows", 4000)
    for _ in range(100):
        clock.now += LINE_EVERY_S / 100
        progress.advance(1, glass="1,203 skipped")
    left = duration(3900 * LINE_EVERY_S / 100)
    assert stream.getvalue() == f"windows: 100 of 4,000, 6.7/s, {left} left · glass 1,203 skipped\n"


def test_a_verbose_log_tells_of_every_stage_and_oftener() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock, verbose=True)
    progress.start("tissue")
    clock.now += 0.3
    progress.start("windows", 3)
    for _ in range(3):
        clock.now += VERBOSE_EVERY_S
        progress.advance()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "tissue: 0.3 s",
        "windows: 1 of 3, 5 s each, 10 s left",
        "windows: 2 of 3, 5 s each, 5.0 s left",
        "windows: 3 of 3 in 15 s",
    ]


def test_warnings_are_kept_for_who_asks_at_the_end() -> None:
    for display in (PlainProgress(io.StringIO()), WarningsOnly(io.StringIO())):
        display.note("a note")
        display.warn("look out")
        assert display.warnings == ["look out"]


# --- the live line ------------------------------------------------------------------------------------


def live(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> LiveProgress:
    monkeypatch.setenv("TERM", "xterm-256color")
    progress = LiveProgress(io.TextIOWrapper(io.BytesIO(), "utf-8"), clock)
    progress.start("windows", 400)
    for _ in range(100):
        clock.now += 0.1
        progress.advance(1, glass="1,203 skipped")
    return progress


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            120,
            "windows  ━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  100 of 400  10/s  30 s left  glass 1,203 skipped",
        ),
        (80, "windows  ━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  100 of 400  10/s  30 s left  glass 1,203 skipped"),
        (64, "windows  ━━━╌╌╌╌╌╌╌╌╌  100 of 400  10/s  30 s left  glass 1,20…"),
        (50, "windows  ━━━╌╌╌╌╌╌╌╌  100 of 400  10/s  30 s left"),
        (37, "windows  100 of 400  10/s  30 s left"),
        (24, "windows  100 of 400"),
        (16, "wi…  100 of 400"),
    ],
)
def test_a_live_line_fits_its_terminal_and_the_least_goes_first(
    width: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = live(monkeypatch, Clock())
    shown = progress.line(width).plain
    progress.close()
    assert len(shown) < width
    assert shown == line


def test_a_stage_without_an_end_shows_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    progress = live(monkeypatch, clock)
    progress.start("objects")
    clock.now += 3
    progress.advance(7)
    assert progress.line(80).plain.split("  ")[1:] == ["7 done", "3.0 s"]
    progress.close()


def test_a_terminal_of_ascii_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    progress = LiveProgress(io.TextIOWrapper(io.BytesIO(), "ascii"), Clock())
    progress.start("windows", 4)
    progress.advance(2)
    assert progress.line(60).plain == "windows  ############------------  2 of 4"
    progress.close()


# --- real terminals -----------------------------------------------------------------------------------


def _read_all(terminal: int) -> str:
    pieces = []
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:
        while piece := stream.read(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


def on_terminal(columns: int, work: object) -> str:
    """What `work` writes to a pseudo-terminal so wide."""
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with ThreadPoolExecutor(1) as reader:
        told = reader.submit(_read_all, master)
        with os.fdopen(slave, "w") as terminal:
            work(terminal)  # type: ignore[operator]
        return told.result(timeout=60)


TABLE = Table(
    (Column("image", 9), Column("count", 8, right=True), Column("note", 7)),
    [(["a-rather-long-name-of-a-biopsy.svs", "12", "flagged: stain, brightness"], "yellow")],
    ("1 image: 1 done",),
)


@needs_terminals
@pytest.mark.parametrize("columns", [80, 50])
def test_a_table_is_as_wide_as_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    told = on_terminal(columns, lambda stream: show_tables([TABLE], stream))
    assert "\x1b[33m" in told
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told).splitlines()
    assert len(plain) == 3
    assert max(map(len, plain)) <= columns
    assert "count" in plain[0]
    assert ("…" in plain[1]) == (columns == 50)


@needs_terminals
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")

    def work(stream: object) -> None:
        with progress_display(stream) as progress:  # type: ignore[arg-type]
            progress.start("windows", 3)
            progress.advance(2)
            progress.warn("look out")
        show_tables([TABLE], stream)  # type: ignore[arg-type]

    told = on_terminal(80, work)
    assert "look out" in told
    assert not re.search(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m", told)


@needs_terminals
def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    def work(stream: object) -> None:
        with progress_display(stream) as progress:  # type: ignore[arg-type]
            progress.start("windows", 3)
            progress.note("a note")
        show_tables([TABLE], stream)  # type: ignore[arg-type]

    assert "\x1b" not in on_terminal(80, work)


@needs_terminals
def test_a_finished_stage_leaves_a_line_where_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def work(stream: object) -> None:
        with progress_display(stream) as progress:  # type: ignore[arg-type]
            progress.start("windows", 2)
            progress.advance(2)

    token = flags.FLAGS.set(flags.Flags(verbose=True))
    try:
        assert "windows: 2 of 2 in 0." in on_terminal(80, work)
    finally:
        flags.FLAGS.reset(token)
    assert "2 of 2 in" not in on_terminal(80, work)


def test_a_file_has_no_width_and_a_setting_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "33")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert terminal_width(Terminal()) == 33
