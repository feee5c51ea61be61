"""How a command says what it did: paths and a table for people, or one JSON object for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from glomtile.cli.flags import FLAGS
from glomtile.cli.progress import can_move
from glomtile.errors import UsageError

if TYPE_CHECKING:
    from glomtile.cli.summaries import Table

FORMAT = 1
"""Of the objects that ``--json`` prints; fields may be added to it, none changes its meaning."""

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
    """Say what came of a command, and end it with 1 where some inputs failed.

    Parameters
    ----------
    command : str
    paths : iterable of Path or str
        Results, told on stdout a line each.
    lines : iterable
        What else people are told on stdout; programs find it among `facts`.
    failed : sequence of (input, reason)
        Told last on stderr; the others are done.
    warnings : sequence of str
        What was warned of while it ran.
    facts : mapping, optional
        Fields of the JSON object beside those that all commands have.
    tables : sequence of Table
        Shown on stderr, unless the run is quiet.
    """
    flags, listed = FLAGS.get(), [str(path) for path in paths]
    if flags.json:
        told = [{"input": str(where), "reason": reason} for where, reason in failed]
        common = {"exit_code": int(bool(failed)), "paths": listed, "failed": told, "warnings": list(warnings)}
        print_object(command, {**common, **(facts or {})})
    else:
        if not flags.quiet:
            show_tables(tables, sys.stderr)
        for line in (*listed, *lines):
            typer.echo(str(line))
    _conclude(failed)


def _conclude(failed: Failed) -> None:
    """End with 1 and the reasons when some inputs failed; the others are done."""
    if failed:
        typer.echo(f"failed: {len(failed)}", err=True)
        for where, reason in failed:
            typer.echo(f"  {where}: {reason}", err=True)
        raise typer.Exit(1)


def print_object(command: str, facts: Mapping[str, Any]) -> None:
    """Print the one object of a command on stdout; numbers that are not finite are ``null`` there."""
    content = _with_nulls({"format": FORMAT, "command": command, **facts})
    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_json(command: str) -> None:
    """End a command that has no result but its text.

    Raises
    ------
    UsageError
        JSON was asked for.
    """
    if FLAGS.get().json:
        raise UsageError(
            "--json", f"expected a command with results, got {command}, whose text is its result"
        )


def show_tables(tables: Sequence[Table], stream: TextIO) -> None:
    """Print tables, on a terminal as wide as it is and with what colours it takes."""
    from glomtile.cli.tables import table_lines

    width = terminal_width(stream)
    lines: list[tuple[str, str]] = []
    for table in tables:
        heading, *rows = table_lines(table.columns, [cells for cells, _ in table.rows], width)
        lines.append((heading, "bold"))
        lines += [(row, style) for row, (_, style) in zip(rows, table.rows, strict=True)]
        lines += [(line, "") for line in table.closing]
    if can_move(stream):
        from glomtile.cli.livebar import print_styled

        print_styled(stream, lines)
        return
    for text, _ in lines:
        print(text, file=stream)


def terminal_width(stream: TextIO) -> int | None:
    """Characters in a line of a terminal, by ``COLUMNS`` or by itself; ``None`` for a file or pipe."""
    if not stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return os.get_terminal_size(stream.fileno()).columns or 80
