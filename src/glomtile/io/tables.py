"""Reading and writing of CSV tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

from glomtile.errors import InputError
from glomtile.formatting import printable
from glomtile.io.atomic import write_text

Cell = str | int | float | None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Path:
    """Write a table, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    header : sequence of str
        Column names.
    rows : iterable of sequences
        Cells in the header's order: numbers are rounded to six decimals, None and NaN stay empty.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        A row has another number of cells than the header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"expected {len(header)} cells under {list(header)}, got {list(row)}")
        writer.writerow([_cell(value) for value in row])
    write_text(path, text.getvalue())
    return path


def read_csv(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a table as one dictionary a row.

    Spaces behind commas, a byte order mark, blank lines and the trailing comma of the reference's
    metric tables (reference §4) are ignored.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that the header must have.

    Returns
    -------
    list of dict
        Header name to cell, as text.

    Raises
    ------
    InputError
        The file cannot be read, is not UTF-8, has no header, repeats a column, lacks a required column or
        has a row of another length.
    """
    lines = list(_lines(path))
    if not lines:
        raise InputError(path, "expected a table with a header line, got an empty file")
    _, header = lines[0]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(path, f"expected every column once, got {', '.join(twice)} twice")
    missing = [name for name in required if name not in header]
    if missing:
        hint = "separate columns with commas" if len(header) == 1 and ";" in header[0] else None
        raise InputError(
            path, f"expected the columns {', '.join(required)}, got {', '.join(header) or 'none'}", hint
        )
    table = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"{path}:{number}", f"expected {len(header)} cells, got {len(cells)}")
        table.append(dict(zip(header, cells, strict=True)))
    return table


def require_numbers(
    path: Path, rows: Sequence[Mapping[str, str]], columns: Iterable[str], *, whole: bool = False
) -> None:
    """Check that columns of a table hold numbers as `write_csv` writes them.

    Parameters
    ----------
    path : Path
        Named in the error.
    rows : sequence of mapping
        From `read_csv`.
    columns : iterable of str
        Columns that the table lacks are skipped.
    whole : bool
        Accept whole numbers only, and no empty cell.

    Raises
    ------
    InputError
        A cell holds anything else, or a number that is not finite.
    """
    for number, row in enumerate(rows, 1):
        for column in columns:
            cell = row.get(column)
            if cell is not None and not (_is_whole(cell) if whole else not cell or _is_finite(cell)):
                kind = "a whole number" if whole else "a number"
                raise InputError(path, f"expected {kind} under {column} in row {number}, got {cell!r}")


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.removeprefix("-").isdigit()


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _lines(path: Path) -> Iterable[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, f"expected a readable table, got: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "expected UTF-8 text, got other bytes", "save the table as UTF-8") from error
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    columns = None
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if columns is None:
                columns = len(stripped) - (len(stripped) > 1 and not stripped[-1])
            if len(stripped) == columns + 1 and not stripped[-1]:
                stripped.pop()
            yield reader.line_num, stripped
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}", f"expected a line of a table, got: {error}") from error


def _cell(value: Cell) -> Cell:
    if isinstance(value, str):
        # A file name of bytes that are not UTF-8 holds lone surrogates.
        return printable(value) if any("\ud800" <= letter <= "\udfff" for letter in value) else value
    if value is None or isinstance(value, Integral):
        return value
    number = float(value)
    return None if math.isnan(number) else round(number, 6)
