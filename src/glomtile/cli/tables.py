"""A table as lines of text that fit a width: long texts are cut, columns that matter less left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_GAP = 2
_CUT_TO = 16
_LEAST = 8
"""A text may be cut to so many characters before a column is left out, and to so many after."""


class Column(NamedTuple):
    """A column of a table.

    Attributes
    ----------
    name : str
        Its heading.
    weight : int
        Columns of the least weight are left out first where there is no room; of the largest, never.
    right : bool
        Set its cells to the right, as numbers are.
    """

    name: str
    weight: int = 0
    right: bool = False


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """Heading and rows.

    Parameters
    ----------
    columns : sequence of Column
    rows : sequence of sequence of str
        A cell for each column; characters that would move the cursor are shown as ``?``.
    width : int, optional
        Characters that a line may have; any number where left out.

    Returns
    -------
    list of str
        Without line ends.

    Examples
    --------
    >>> table_lines([Column("image"), Column("count", right=True)], [["a.png", "12"]])
    ['image  count', 'a.png     12']
    """
    cells = [[column.name for column in columns], *([printable(cell) for cell in row] for row in rows)]
    kept = list(range(len(columns)))
    widths = [max(cell_width(row[number]) for row in cells) for number in kept]
    if width is not None:
        kept, widths = _fitted(columns, widths, width)
    gap = " " * _GAP
    return [
        gap.join(
            _set(row[number], widths[number], columns[number].right, middle=number == 0) for number in kept
        ).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() else "?" for char in text)


def cell_width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide character, none for an accent set on it."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """The text without its end, or its middle, where it is too wide: names differ at their ends."""
    if cell_width(text) <= width:
        return text
    behind = (width - 1) // 2 if middle else 0
    head, tail = text, text
    while cell_width(head) > width - 1 - behind:
        head = head[:-1]
    while cell_width(tail) > behind:
        tail = tail[1:]
    return f"{head}…{tail}"


def _fitted(columns: Sequence[Column], widths: Sequence[int], width: int) -> tuple[list[int], list[int]]:
    """The columns that are kept, and how wide all are."""
    widths = list(widths)
    kept = list(range(len(columns)))
    most = max(column.weight for column in columns)

    def over(least: int) -> int:
        parts = (widths[n] if columns[n].right else min(widths[n], least) for n in kept)
        return sum(parts) + _GAP * (len(kept) - 1) - width

    while over(_CUT_TO) > 0:
        lightest = min(kept, key=lambda number: (columns[number].weight, -number))
        if columns[lightest].weight == most:
            break
        kept.remove(lightest)
    texts = [number for number in kept if not columns[number].right]
    while texts and over(10**6) > 0:
        widest = max(texts, key=lambda number: widths[number])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    return kept, widths


def _set(text: str, width: int, right: bool, *, middle: bool) -> str:
    text = cut(text, width, middle=middle)
    space = " " * (width - cell_width(text))
    return space + text if right else text + space
