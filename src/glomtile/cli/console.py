"""Output of the command: global options, progress, results as paths, tables or JSON."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import typer

from glomtile.errors import UsageError
from glomtile.formatting import duration, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import Task

JSON_FORMAT = 1
"""Version of the objects that ``--json`` prints: fields may be added, none changes its meaning."""

LINE_EVERY_S, VERBOSE_EVERY_S = 15.0, 5.0
"""Time between two status lines where there is no live bar."""

MAX_ROWS = 24
_NARROW = 76
"""Terminals of fewer characters get tables without their optional columns."""

_FIGURES = {
    "pooled_dice": "pooled Dice",
    "mean_dice": "mean Dice",
    "pooled_precision": "pooled precision",
    "pooled_recall": "pooled recall",
    "object_f1": "object F1",
}


# --- global options -----------------------------------------------------------------------------------------


class Flags(NamedTuple):
    """The options that every command takes."""

    quiet: bool = False
    debug: bool = False
    verbose: bool = False
    json: bool = False


NO_FLAGS = Flags()
FLAGS: ContextVar[Flags] = ContextVar("flags", default=NO_FLAGS)
_SHORT = {"-q": "--quiet", "-v": "--verbose"}


def parse_global_options(argv: Sequence[str]) -> tuple[list[str], Flags]:
    """Take the global options out of a command line, wherever they are.

    Examples
    --------
    >>> parse_global_options(["train", "a.toml", "--quiet"])
    (['train', 'a.toml'], Flags(quiet=True, debug=False, verbose=False, json=False))
    """
    end = argv.index("--") if "--" in argv else len(argv)
    names = {f"--{name}": name for name in Flags._fields}
    words = [_SHORT.get(word, word) for word in argv[:end]]
    flags = Flags(**{names[word]: True for word in words if word in names})
    return [*(word for word in words if word not in names), *argv[end:]], flags


# --- progress -----------------------------------------------------------------------------------------------


@contextmanager
def progress_display(stream: TextIO | None = None) -> Iterator[ProgressDisplay]:
    """Show progress on `stream`, stderr by default: a live bar on a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    flags = FLAGS.get()
    live = _is_live(stream) and not flags.quiet
    display = ProgressDisplay(stream, quiet=flags.quiet, verbose=flags.verbose, live=live)
    try:
        yield display
    finally:
        display.close()


class ProgressDisplay:
    """Progress as a live bar or as plain lines, with notes and warnings at once.

    Parameters
    ----------
    stream : text stream
    clock : callable, optional
        Returns seconds.
    quiet : bool
        Print warnings only.
    verbose : bool
        Print a line at the end of every stage, and more status lines.
    live : bool
        Show a bar that moves; `stream` is a terminal.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        *,
        quiet: bool = False,
        verbose: bool = False,
        live: bool = False,
    ) -> None:
        self._stream, self._clock = stream, clock
        self._quiet, self._verbose, self._live = quiet, verbose, live
        self._bar = _bar(_console(stream), clock, live)
        self._task: Task | None = None
        self._lock = threading.RLock()
        self._printed_at = clock()
        self._printed = False
        self.warnings: list[str] = []

    def start(self, title: str, total: int | None = None) -> None:
        """End the current stage and start the next one."""
        with self._lock:
            self._end()
            self._bar.start()
            self._bar.add_task(printable(title), total=total, figures="")
            self._task = self._bar.tasks[-1]
            self._printed = False

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count `steps` more; `figures` replace those of the same name."""
        with self._lock:
            if self._task is None:
                return
            shown = self._task.fields.setdefault("values", {})
            shown.update(figures)
            self._bar.update(self._task.id, advance=steps, figures=format_figures(shown))
            every = VERBOSE_EVERY_S if self._verbose else LINE_EVERY_S
            due = self._clock() - self._printed_at >= every and self._task.completed != self._task.total
            if due and not self._live and not self._quiet:
                self._printed_at, self._printed = self._clock(), True
                status = ", ".join(filter(None, (_count(self._task), _rate(self._task), _left(self._task))))
                self._print(f"{self._task.description}: {status}{_behind(self._task)}")

    def note(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print a warning and keep it."""
        self.warnings.append(text)
        self._print(f"warning: {text}", "yellow")

    def close(self) -> None:
        """End the last stage."""
        with self._lock:
            self._end()
            self._bar.stop()

    def _end(self) -> None:
        """Remove the bar, and print where the stage ended if it was long or the run is verbose."""
        task, self._task = self._task, None
        if task is None:
            return
        seconds = task.elapsed or 0.0
        self._bar.remove_task(task.id)
        long = self._printed or (seconds >= LINE_EVERY_S and not self._live)
        if not self._quiet and (long or self._verbose):
            self._printed_at = self._clock()
            parts = " in ".join(filter(None, (_count(task), duration(seconds))))
            self._print(f"{task.description}: {parts}{_behind(task)}")

    def _print(self, text: str, style: str = "") -> None:
        text = "\n".join(map(printable, text.split("\n")))
        with self._lock:
            if self._live:
                from rich.text import Text

                self._bar.console.print(Text(text, style))
            else:
                print(text, file=self._stream, flush=True)


def format_figures(figures: Mapping[str, float | str]) -> str:
    """Format the figures of a status line.

    Examples
    --------
    >>> format_figures({"loss": 0.123456, "image": "a.png"})
    'loss 0.1235 · image a.png'
    """
    return " · ".join(
        f"{name} {printable(value) if isinstance(value, str) else format(value, '.4g')}"
        for name, value in figures.items()
    )


def _bar(console: Console, clock: Callable[[], float], live: bool) -> RichProgress:
    """Return Rich's progress; where it is not live, it only counts."""
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class TextOf(ProgressColumn):
        def __init__(self, text: Callable[[Task], str], style: str = "", *, shrinks: bool = False) -> None:
            super().__init__(Column(no_wrap=not shrinks))
            self._text, self._style = text, style

        def render(self, task: Task) -> Text:
            return Text(self._text(task), self._style, no_wrap=True, overflow="ellipsis")

    return Progress(
        TextOf(lambda task: task.description, shrinks=True),
        BarColumn(bar_width=24, complete_style="cyan", pulse_style="cyan"),
        TextOf(_count),
        TextOf(_rate),
        TextOf(lambda task: _left(task) or duration(task.elapsed or 0.0)),
        TextOf(lambda task: task.fields["figures"], "dim", shrinks=True),
        console=console,
        refresh_per_second=5,
        speed_estimate_period=24 * 3600,
        transient=True,
        get_time=clock,
        disable=not live,
    )


def _count(task: Task) -> str:
    done = int(task.completed)
    if task.total is None:
        return f"{done:,} done" if done else ""
    return f"{done:,} of {int(task.total):,}"


def _rate(task: Task) -> str:
    rate = task.speed
    if not rate:
        return ""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 0.5 else f"{1 / rate:,.0f} s each"


def _left(task: Task) -> str:
    return f"{duration(task.remaining / task.speed)} left" if task.speed and task.remaining else ""


def _behind(task: Task) -> str:
    return f" · {task.fields['figures']}" if task.fields["figures"] else ""


def _is_live(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    live = _is_live(stream)
    width = None if stream.isatty() else 10_000
    return Console(
        file=stream, force_terminal=live, width=width, highlight=False, markup=False, emoji=False,
        soft_wrap=True,
    )  # fmt: skip


# --- results ------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of a table; optional ones are left out on narrow terminals."""

    name: str
    right: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """A table, and lines that follow it; a row is its cells and its style, ``"yellow"`` for example."""

    columns: tuple[Column, ...]
    rows: list[tuple[list[str], str]]
    closing: tuple[str, ...] = ()


Failed = Sequence[tuple[object, str]]


def report_result(
    command: str,
    paths: Iterable[Path | str],
    lines: Iterable[object] = (),
    *,
    failed: Failed = (),
    warnings: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    tables: Sequence[Table] = (),
) -> None:
    """Print the result of a command; end it with 1 where some inputs failed.

    `paths` and `lines` go to stdout, or with ``--json`` an object with `facts` in place of `lines`; `tables`
    and the reasons of `failed` inputs go to stderr.
    """
    flags, listed = FLAGS.get(), [printable(path) for path in paths]
    if flags.json:
        reasons = [{"input": printable(where), "reason": reason} for where, reason in failed]
        common = {"exit_code": int(bool(failed)), "paths": listed, "failed": reasons}
        print_object(command, {**common, "warnings": list(warnings), **(facts or {})})
    else:
        if not flags.quiet:
            print_tables(tables, sys.stderr)
        for line in (*listed, *lines):
            typer.echo(str(line))
    if failed:
        typer.echo(f"failed: {len(failed)}", err=True)
        for where, reason in failed:
            typer.echo(f"  {printable(where)}: {printable(reason)}", err=True)
        raise typer.Exit(1)


def print_object(command: str, facts: Mapping[str, Any]) -> None:
    """Print the JSON object of a command on stdout; numbers that are not finite become ``null``."""
    content = _with_nulls({"format": JSON_FORMAT, "command": command, **facts})
    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False, default=printable))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_json(command: str) -> None:
    """Raise a UsageError if ``--json`` is passed to a command whose result is a text."""
    if FLAGS.get().json:
        raise UsageError("--json", f"expected a command with results, got {command}, which prints a text")


def print_tables(tables: Sequence[Table], stream: TextIO) -> None:
    """Print tables; on a terminal long cells are folded to its width."""
    if not tables:
        return
    from rich.table import Table as Grid
    from rich.text import Text

    console = _console(stream)
    for table in tables:
        shown = [not column.optional or console.width >= _NARROW for column in table.columns]
        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in compress(table.columns, shown):
            justify: Any = "right" if column.right else "left"
            grid.add_column(Text(printable(column.name)), justify=justify, no_wrap=column.right)
        for cells, style in table.rows:
            texts = (Text(printable(cell), overflow="fold") for cell in compress(cells, shown))
            grid.add_row(*texts, style=style or None)
        console.print(grid)
        for line in table.closing:
            console.print(Text(printable(line)))


def slides_table(images: Sequence[Mapping[str, Any]], failed: Failed) -> Table:
    """Return a row for each segmented slide; of many, the failed and the flagged first."""
    keys = dict.fromkeys(key for image in images for key in image)
    classes = [key.removesuffix("_count") for key in keys if key.endswith("_count")]
    numbers = {f"{name}_count": Column(name, right=True) for name in classes}
    if len(classes) == 1:
        numbers[f"{classes[0]}_mean_area_um2"] = Column("mean µm²", right=True)
        numbers[f"{classes[0]}_per_mm2"] = Column("per mm²", right=True)
    numbers["tissue_mm2"] = Column("tissue mm²", right=True, optional=True)
    time_column = Column("time", right=True, optional=True)
    columns = (Column("image"), *numbers.values(), time_column, Column("note"))
    rows = []
    for image in images:
        seconds = image["seconds"] if image["status"] == "done" else None
        aspects = ", ".join(re.split(r":| \(", str(flag))[0] for flag in image["quality_flags"])
        notes = (f"flagged: {aspects}" if aspects else "", "done before" * (image["status"] == "skipped"))
        cells = [
            str(image["image"]),
            *(_format_number(image.get(key)) for key in numbers),
            "" if seconds is None else duration(seconds),
            "; ".join(filter(None, notes)),
        ]
        rows.append((cells, "yellow" if image["quality_flags"] else ""))
    blank = [""] * (len(columns) - 2)
    rows += [([str(path), *blank, "failed"], "red") for path, _ in failed]
    closing = [_slides_summary(images, failed)]
    if len(rows) > MAX_ROWS:
        closing.insert(0, f"… and {len(rows) - MAX_ROWS:,} more in summary.csv")
        rows.sort(key=lambda row: ("red", "yellow", "").index(row[1]))
    return Table(columns, rows[:MAX_ROWS], tuple(closing))


def scores_tables(outcome: Mapping[str, Any], title: str = "") -> list[Table]:
    """Return the headline figures with their intervals, one table a class; `title` describes the images."""
    tables: list[Table] = []
    scores = outcome.get("scores", {"classes": ()})
    for entry in scores["classes"]:
        heading = f"{entry['name']}, {scores['images']} images{title and ' '}{title}"
        rows = []
        for key, words in _FIGURES.items():
            figure = entry["figures"][key]
            low, high = figure["low"], figure["high"]
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            rows.append(([words, _format_score(figure["value"]), interval], ""))
        kinds = ("true_positive", "false_positive", "false_negative")
        counts = ", ".join(f"{entry['objects'][kind]:,} {kind.replace('_', ' ')}s" for kind in kinds)
        columns = (Column(heading), Column("value"), Column("95 % interval"))
        tables.append(Table(columns, rows, (f"objects: {counts}",)))
    several = len(scores["classes"]) > 1
    worst = ", ".join(
        f"{each['image']} {each['dice']:.3f}" + (f" ({each['class']})" if several else "")
        for each in outcome.get("worst", ())
    )
    if worst and tables:
        closing = (*tables[-1].closing, f"worst images by Dice: {worst}")
        tables[-1] = replace(tables[-1], closing=closing)
    return tables


def runs_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a row for each run of a sweep and class, the best first; scores under ``trusted`` come first."""
    found = []
    for name, outcome in runs.items():
        for entry in (outcome["trusted"] or outcome)["scores"]["classes"]:
            values = [entry["figures"][key]["value"] for key in _FIGURES]
            best = -1.0 if values[0] is None else values[0]
            found.append((-best, [name, entry["name"], *map(_format_score, values)]))
    rows = [(cells, "") for _, cells in sorted(found, key=lambda row: row[0])]
    columns = (Column("run"), Column("class"), *(Column(words, right=True) for words in _FIGURES.values()))
    note = "these figures chose the best run: on other images it is likely to score lower"
    return Table(columns, rows, (note,) if len(runs) > 1 else ())


def _slides_summary(images: Sequence[Mapping[str, Any]], failed: Failed) -> str:
    states = [image["status"] for image in images]
    counts = {
        "done": states.count("done"),
        "done before": states.count("skipped"),
        "failed": len(failed),
        "flagged": sum(bool(image["quality_flags"]) for image in images),
    }
    parts = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    fresh = [image for image in images if image["status"] == "done"]
    windows, glass = (sum(image[key] or 0 for image in fresh) for key in ("windows", "windows_skipped"))
    number = len(images) + len(failed)
    line = f"{number} image{'' if number == 1 else 's'}: {parts}"
    return f"{line}; {glass:,} of {windows:,} windows skipped as glass" if glass else line


def _format_number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _format_score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
