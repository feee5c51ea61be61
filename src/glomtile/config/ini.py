"""The reference system's INI dialect: sections, keys and literal values with their line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from glomtile.config.findings import Finding
from glomtile.config.literals import NotALiteralError, read_literal

_SECTION = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]\s*([;#].*)?\Z")
_KEY = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*[=:]\s*(.*)\Z", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Entry:
    """One setting as it was written.

    Parameters
    ----------
    section, key : str
        Lower case, as the reference's reader takes keys.
    value : object
        The literal read from `text`.
    text : str
        The value as written, without comment.
    line : int
        Counted from 1.
    """

    section: str
    key: str
    value: object
    text: str
    line: int


@dataclass(frozen=True)
class Parsed:
    """The settings of a text, in the order they stand, and what was odd about it."""

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


@dataclass
class _Raw:
    section: str
    key: str
    text: str
    line: int


def parse(text: str, file: str = "") -> Parsed:
    """Read the INI dialect.

    Parameters
    ----------
    text : str
        The whole file.
    file : str, optional
        Its name, for the findings.

    Returns
    -------
    Parsed
        Each key once: where it is written twice the last one counts, with a warning.

    Notes
    -----
    Changed from the reference (§6.4): values are read as literals and never evaluated, ``%``
    is a character like any other, and neither a doubled key nor a bad value makes other keys
    fall back to their defaults.
    """
    findings: list[Finding] = []
    entries: dict[tuple[str, str], Entry] = {}
    for raw in _assignments(text, file, findings):
        entry = _read(raw, file, findings)
        if entry is None:
            continue
        earlier = entries.pop((entry.section, entry.key), None)
        if earlier is not None:
            findings.append(
                _finding("warning", file, raw, f"written twice, line {earlier.line} too; the last one counts")
            )
        entries[entry.section, entry.key] = entry
    return Parsed(tuple(entries.values()), tuple(sorted(findings, key=lambda finding: finding.line)))


def _read(raw: _Raw, file: str, findings: list[Finding]) -> Entry | None:
    if not raw.text:
        findings.append(_finding("warning", file, raw, "no value behind the key; it is left out"))
        return None
    try:
        literal = read_literal(raw.text)
    except NotALiteralError as problem:
        findings.append(_finding("error", file, raw, str(problem)))
        return None
    if literal.bare:
        findings.append(_finding("warning", file, raw, f"taken as {literal.value!r}; write texts in quotes"))
    return Entry(raw.section, raw.key, literal.value, raw.text, raw.line)


def _finding(severity: str, file: str, raw: _Raw, message: str) -> Finding:
    return Finding(
        "error" if severity == "error" else "warning",
        file,
        raw.line,
        raw.section,
        raw.key,
        message,
        raw.text or None,
    )


def _assignments(text: str, file: str, findings: list[Finding]) -> Iterator[_Raw]:
    section: str | None = None
    seen: dict[str, int] = {}
    current: _Raw | None = None

    def odd(line: int, message: str) -> None:
        findings.append(Finding("warning", file, line, section or "", "", message))

    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        bare = _without_comment(line)
        header = _SECTION.match(line)
        inside = current is not None and _open_brackets(current.text) > 0
        assignment = _KEY.match(bare)
        if inside and current is not None and not _starts_anew(header, assignment, line):
            current.text = f"{current.text} {bare.strip()}"
            continue
        if not bare.strip():
            continue
        if header:
            if current:
                yield current
            current, section = None, header[1].strip()
            if section in seen:
                odd(number, f"the section is written twice, line {seen[section]} too; both count")
            seen.setdefault(section, number)
        elif assignment and section is not None:
            if current:
                yield current
            current = _Raw(section, assignment[1].lower(), assignment[2].strip(), number)
        elif assignment:
            odd(number, f"{assignment[1]} stands before any [section]; it is left out")
        elif line[:1].isspace() and current is not None:
            current.text = f"{current.text} {bare.strip()}".strip()
        else:
            odd(number, "expected [section] or key = value; the line is left out")
    if current:
        yield current


def _starts_anew(header: re.Match[str] | None, assignment: re.Match[str] | None, line: str) -> bool:
    """Whether a line inside open brackets shows that a bracket was forgotten.

    ``[1, 2]`` may go on a list; a name in brackets at the line's start, or a key before an
    equals sign, cannot.
    """
    if header is not None and re.match(r"[A-Za-z_]\w*\Z", header[1]) and not line[:1].isspace():
        return True
    return assignment is not None and "=" in line and not line[:1].isspace()


def _without_comment(line: str) -> str:
    """The line up to a ``;`` or ``#`` that stands outside quotes."""
    quote = ""
    escaped = False
    for place, sign in enumerate(line):
        if escaped:
            escaped = False
        elif quote:
            escaped = sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in ";#":
            return line[:place]
    return line


def _open_brackets(text: str) -> int:
    depth = 0
    quote = ""
    escaped = False
    for sign in text:
        if escaped:
            escaped = False
        elif quote:
            escaped = sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in _OPEN) - (sign in _CLOSE)
    return depth
