"""Blocks of commands in Markdown pages, and the reasons why some are not run by tests.

A fenced block of ``sh`` contains commands, of ``python`` code, of ``toml`` or ``ini`` settings. The tests
run a block unless the line above it states why not::

    <!-- not run: it installs packages -->

and a page of measurements states it once, at its top: ``<!-- not run, the whole page: REASON -->``.
A ``text``
block below ``<!-- output -->`` is the recorded output of the block above it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("sh", "python", "toml", "ini", "json", "text")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>\S.*\S) -->$")
_WHOLE_PAGE = re.compile(r"^<!-- not run, the whole page: (?P<reason>\S.*\S) -->$", re.MULTILINE)
_OUTPUT = "<!-- output -->"
_COMMAND_LINE = re.compile(r"^ {4,}(?P<line>(?:glomtile|make|pip|python3?|cd) .*)$")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block, or the indented command lines of a page of measurements.

    Attributes
    ----------
    page : Path
    line : int
        Number of its first line of text, from 1.
    language : str
        One of `LANGUAGES`.
    text : str
    not_run : str or None
        Reason why no test runs it; ``None`` if one does.
    output : (int, int) or None
        First line of the recorded output and the line after its last, from 0.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    output: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command line: its words, and the file its output is redirected to."""

    words: tuple[str, ...]
    into: str | None = None

    def __str__(self) -> str:
        return shlex.join(self.words)


def read_blocks(page: Path) -> list[Block]:
    """Read the blocks of a page, in order.

    Raises
    ------
    ValueError
        A fence has no language or an unknown one, or is not closed; indented commands are on a
        page that is not marked as not run.
    """
    text = page.read_text("utf-8")
    whole = _WHOLE_PAGE.search(text)
    page_reason = whole["reason"] if whole else None
    blocks: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence, indented = _FENCE.match(lines[number]), _COMMAND_LINE.match(lines[number])
        if fence:
            end = _closing(page, lines, number, fence["indent"])
            inside = [line.removeprefix(fence["indent"]) for line in lines[number + 1 : end]]
            above = _above(lines, number)
            if above == _OUTPUT and blocks:
                blocks[-1] = _with_output(blocks[-1], (number + 1, end))
            else:
                if fence["language"] not in LANGUAGES:
                    raise ValueError(f"{page}:{number + 1}: expected ```{' or ```'.join(LANGUAGES)}")
                reason = _NOT_RUN.match(above)
                not_run = reason["reason"] if reason else page_reason
                blocks.append(Block(page, number + 2, fence["language"], "\n".join(inside), not_run))
            number = end
        elif indented:
            if page_reason is None:
                raise ValueError(f"{page}:{number + 1}: expected commands in a fenced block")
            blocks.append(Block(page, number + 1, "sh", indented["line"], page_reason))
            while blocks[-1].text.endswith("\\"):
                number += 1
                longer = blocks[-1].text + "\n" + lines[number]
                blocks[-1] = Block(page, blocks[-1].line, "sh", longer, page_reason)
        number += 1
    return blocks


def commands(block: Block) -> list[Command]:
    """Split a block of ``sh`` into command lines without comments, continued lines joined."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if ">" in words:
            place = words.index(">")
            found.append(Command(tuple(words[:place]), words[place + 1]))
        elif words:
            found += [Command(tuple(part)) for part in _joined_by_and(words)]
    return found


def spans(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of inline code outside fenced blocks."""
    inside = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            yield from ((number, span) for span in _SPAN.findall(line))


def _joined_by_and(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word == "&&":
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _closing(page: Path, lines: list[str], opened: int, indent: str) -> int:
    for number in range(opened + 1, len(lines)):
        if lines[number].rstrip() == f"{indent}```":
            return number
    raise ValueError(f"{page}:{opened + 1}: expected an end of the block")


def _above(lines: list[str], number: int) -> str:
    """Return the last line above that is not empty."""
    for line in reversed(lines[:number]):
        if line.strip():
            return line.strip()
    return ""


def _with_output(block: Block, output: tuple[int, int]) -> Block:
    return Block(block.page, block.line, block.language, block.text, block.not_run, output)
