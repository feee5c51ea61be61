"""Progress and tables of the command, on terminals and in logs."""

from __future__ import annotations

import io
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from glomtile.cli.console import (
    FLAGS,
    LINE_EVERY_S,
    MAX_ROWS,
    VERBOSE_EVERY_S,
    Column,
    Flags,
    ProgressDisplay,
    Table,
    format_figures,
    print_tables,
    progress_display,
    scores_tables,
    slides_table,
)
from glomtile.formatting import duration
from glomtile.types import SILENT

needs_terminals = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_every_display_is_a_progress():
    members = [name for name in dir(SILENT) if not name.startswith("_")]
    assert members == ["advance", "note", "start", "warn"]
    assert all(callable(getattr(ProgressDisplay, name)) for name in members)


# --- logs ---------------------------------------------------------------------------------------------------


def test_a_log_gets_a_status_line_every_15_seconds():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressDisplay(stream, clock)
    progress.start("tiles", 400)
    for _ in range(400):
        clock.now += LINE_EVERY_S / 100
        progress.advance(1, glass="1,203 skipped")
    progress.start("masks", 10)
    progress.note("done")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"tiles: 100 of 400, 6\.7/s, 45 s left · glass 1,203 skipped", lines[0])
    assert lines[-2:] == [f"tiles: 400 of 400 in {duration(4 * LINE_EVERY_S)} · glass 1,203 skipped", "done"]
    assert len(lines) == 5


def test_a_log_omits_quick_stages_and_has_the_end_of_long_ones():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressDisplay(stream, clock)
    progress.start("images", 8)
    progress.advance(8)
    progress.start("drawing")
    clock.now += 2 * LINE_EVERY_S
    progress.start("masks", 2)
    clock.now += LINE_EVERY_S / 2
    progress.advance(2)
    progress.close()
    progress.close()
    assert stream.getvalue() == f"drawing: {duration(2 * LINE_EVERY_S)}\n"


def test_a_verbose_log_has_every_stage_and_more_lines():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressDisplay(stream, clock, verbose=True)
    progress.start("tissue")
    clock.now += 0.3
    progress.start("windows", 4)
    for _ in range(4):
        clock.now += VERBOSE_EVERY_S
        progress.advance()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "tissue: 0.3 s",
        "windows: 1 of 4",
        "windows: 2 of 4, 5 s each, 10 s left",
        "windows: 3 of 4, 5 s each, 5.0 s left",
        "windows: 4 of 4 in 20 s",
    ]


def test_steps_of_a_previous_run_do_not_count_for_the_rate():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressDisplay(stream, clock)
    progress.start("windows", 1000)
    progress.advance(900)
    for _ in range(20):
        clock.now += 1
        progress.advance()
    assert stream.getvalue() == "windows: 915 of 1,000, 1.0/s, 1:25 min left\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_warnings_are_kept_and_printed_even_when_quiet(quiet):
    stream = io.StringIO()
    progress = ProgressDisplay(stream, quiet=quiet)
    progress.start("a", 2)
    progress.advance()
    progress.note("a note")
    progress.warn("careful")
    progress.close()
    assert progress.warnings == ["careful"]
    assert stream.getvalue() == ("" if quiet else "a note\n") + "warning: careful\n"


def test_names_cannot_move_the_cursor_or_change_colours():
    stream = io.StringIO()
    progress = ProgressDisplay(stream, verbose=True)
    progress.start("a\x1b[2J.png")
    progress.advance(image="b\r.png")
    progress.warn("c\x1b[31m.png")
    progress.close()
    print_tables([Table((Column("image"),), [(["d\x1b[0m\n[red].png"], "")])], stream)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())
    assert r"d\x1b[0m\n[red].png" in stream.getvalue()


def test_figures_are_rounded():
    figures = {"loss": 0.123456, "epochs": 3, "image": "a.png"}
    assert format_figures(figures) == "loss 0.1235 · epochs 3 · image a.png"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1:00 min"),
        (61, "1:01 min"),
        (3599.7, "1:00 h"),
        (7260, "2:01 h"),
    ],
)
def test_durations_are_short(seconds, words):
    assert duration(seconds) == words


# --- terminals ----------------------------------------------------------------------------------------------


def _read_all(terminal):
    """Read a pseudo-terminal until its other end is closed, which is an error on Linux."""
    pieces = []
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:
        while piece := stream.read(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


def on_terminal(work):
    master, slave = os.openpty()
    with ThreadPoolExecutor(1) as reader:
        written = reader.submit(_read_all, master)
        with os.fdopen(slave, "w") as terminal:
            work(terminal)
        return written.result(timeout=60)


def plain(written):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


@pytest.fixture
def verbose():
    token = FLAGS.set(Flags(verbose=True))
    yield
    FLAGS.reset(token)


def windows(stream):
    with progress_display(stream) as progress:
        progress.start("reading [images]", 400)
        progress.advance(100, glass="1,203 skipped")
        time.sleep(0.5)  # the bar is drawn five times a second
        progress.note("a note [bold]")
        progress.warn("careful")
        progress.start("second stage")
        progress.advance()


@needs_terminals
@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_live_bar_and_names_as_they_are():
    written = on_terminal(windows)
    for text in ("reading [images]", "a note [bold]", "second stage", "100 of 400", "glass 1,203 skipped"):
        assert text in plain(written)
    assert "\x1b[" in written
    assert "1 done in" not in written


@needs_terminals
@pytest.mark.parametrize("columns", [60, 40])
def test_a_bar_fits_its_terminal(columns, terminal):
    terminal.setenv("COLUMNS", str(columns))
    lines = re.split(r"[\r\n]+", plain(on_terminal(windows)))
    assert max(map(len, lines)) <= columns
    assert any("100 of 400" in line for line in lines)


@needs_terminals
@pytest.mark.usefixtures("terminal", "verbose")
def test_a_finished_stage_leaves_a_line_if_verbose():
    assert "second stage: 1 done in 0." in plain(on_terminal(windows))


@needs_terminals
def test_no_color_is_respected(terminal):
    terminal.setenv("NO_COLOR", "1")

    def work(stream):
        windows(stream)
        print_tables([TABLE], stream)

    assert not re.search(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m", on_terminal(work))


@needs_terminals
def test_a_dumb_terminal_gets_plain_lines(terminal):
    terminal.setenv("TERM", "dumb")

    def work(stream):
        windows(stream)
        print_tables([TABLE], stream)

    assert "\x1b" not in on_terminal(work)


# --- tables -------------------------------------------------------------------------------------------------

TABLE = Table(
    (Column("image"), Column("count", right=True), Column("area", right=True, optional=True), Column("note")),
    [(["a-rather-long-name-of-a-biopsy.svs", "12", "1,234.5", "flagged: stain, brightness"], "yellow")],
    ("1 image: 1 done",),
)


def table_lines(table):
    stream = io.StringIO()
    print_tables([table], stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_table_in_a_log_is_as_wide_as_its_cells():
    assert table_lines(TABLE) == [
        "image                               count     area  note",
        "a-rather-long-name-of-a-biopsy.svs     12  1,234.5  flagged: stain, brightness",
        "1 image: 1 done",
    ]


@needs_terminals
@pytest.mark.parametrize("columns", [90, 50])
def test_a_table_fits_its_terminal_and_folds_long_names(columns, terminal):
    terminal.setenv("COLUMNS", str(columns))
    written = on_terminal(lambda stream: print_tables([TABLE], stream))
    assert "\x1b[33m" in written
    lines = plain(written).splitlines()
    assert max(map(len, lines)) <= columns
    assert ("area" in lines[0]) == (columns == 90)
    assert (len(lines) == 3) == (columns == 90)


def image(name, **facts):
    return {
        "image": name, "status": "done", "glomerulus_count": 12, "glomerulus_mean_area_um2": 18400.2,
        "glomerulus_per_mm2": 13.04, "tissue_mm2": 0.92, "quality_flags": [], "windows": 40,
        "windows_skipped": 30, "seconds": 75.2, **facts,
    }  # fmt: skip


def test_slides_have_a_row_each():
    images = [
        image("a"),
        image("b", status="skipped", quality_flags=["stain: 2.1", "low confidence (Dice 0.5)"]),
        image("c", glomerulus_count=0, glomerulus_mean_area_um2=None),
    ]
    table = slides_table(images, [("d.svs", "expected a whole slide")])
    assert table_lines(table) == [
        "image  glomerulus  mean µm²  per mm²  tissue mm²      time  note",
        "a              12    18,400       13        0.92  1:15 min",
        "b              12    18,400       13        0.92            flagged: stain, low confidence; done "
        "before",
        "c               0                 13        0.92  1:15 min",
        "d.svs                                                       failed",
        "4 images: 2 done, 1 done before, 1 failed, 1 flagged; 60 of 80 windows skipped as glass",
    ]
    assert [style for _, style in table.rows] == ["", "yellow", "", "red"]


def test_of_many_slides_the_failed_and_flagged_come_first():
    images = [image(f"s{number}", quality_flags=["stain: far"] * (number == 90)) for number in range(100)]
    table = slides_table(images, [("z.svs", "cut off")])
    assert len(table.rows) == MAX_ROWS
    assert [cells[0] for cells, _ in table.rows[:3]] == ["z.svs", "s90", "s0"]
    assert table.closing[0] == f"… and {101 - MAX_ROWS} more in summary.csv"


def test_scores_have_their_intervals_and_the_worst_images():
    def figure(value, low=None, high=None):
        return {"value": value, "low": low, "high": high}

    figures = {
        "pooled_dice": figure(0.84, 0.779, 0.883), "mean_dice": figure(0.831, 0.771, 0.882),
        "pooled_precision": figure(0.925), "pooled_recall": figure(None),
        "object_f1": figure(0.778, 0.5, 1.0),
    }  # fmt: skip
    objects = {"true_positive": 14, "false_positive": 6, "false_negative": 2}
    outcome = {
        "scores": {"images": 14, "classes": [{"name": "glomerulus", "figures": figures, "objects": objects}]},
        "worst": [{"image": "10103", "class": "glomerulus", "dice": 0.4412}],
    }
    (table,) = scores_tables(outcome)
    assert table_lines(table) == [
        "glomerulus, 14 images  value      95 % interval",
        "pooled Dice            0.840      0.779 to 0.883",
        "mean Dice              0.831      0.771 to 0.882",
        "pooled precision       0.925",
        "pooled recall          undefined",
        "object F1              0.778      0.500 to 1.000",
        "objects: 14 true positives, 6 false positives, 2 false negatives",
        "worst images by Dice: 10103 0.441",
    ]
