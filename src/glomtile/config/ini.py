"""The reference system's INI dialect: sections, keys and literal values with their line numbers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from glomtile.config.findings import Finding, describe
from glomtile.config.literals import NotALiteralError, read_literal, read_path

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
    """An assignment while its lines are read."""

    section: str
    key: str
    line: int
    parts: list[str]
    depth: int

    def go_on(self, bare: str, brackets: int) -> None:
        self.parts.append(bare.strip())
        self.depth += brackets

    @property
    def text(self) -> str:
        return " ".join(self.parts).strip()


def parse(text: str, file: str = "", paths: Container[str] = ()) -> Parsed:
    """Read the INI dialect.

    Parameters
    ----------
    text : str
        The whole file.
    file : str, optional
        Its name, for the findings.
    paths : container of str, optional
        Keys whose values name files or folders: a backslash in quotes parts folders there.

    Returns
    -------
    Parsed
        Each key once: where it is written twice the last one counts, with a warning.

    Notes
    -----
    Changed from the reference (§6.4): values are read as literals and never evaluated, ``%``
    is a character like any other, a lone backslash in a Windows path is no escape, and neither a
    doubled key nor a bad value makes other keys fall back to their defaults.
    """
    findings: list[Finding] = []
    entries: dict[tuple[str, str], Entry] = {}
    for raw in _assignments(text, file, findings):
        entry = _read(raw, file, findings, paths)
        if entry is None:
            continue
        earlier = entries.pop((entry.section, entry.key), None)
        if earlier is not None:
            findings.append(
                _finding("warning", file, raw, f"written twice, line {earlier.line} too; the last one counts")
            )
        entries[entry.section, entry.key] = entry
    return Parsed(tuple(entries.values()), tuple(sorted(findings, key=lambda finding: finding.line)))


def _read(raw: _Raw, file: str, findings: list[Finding], paths: Container[str]) -> Entry | None:
    if not raw.text:
        findings.append(_finding("warning", file, raw, "no value behind the key; it is left out"))
        return None
    try:
        literal = read_path(raw.text) if raw.key in paths else read_literal(raw.text)
    except NotALiteralError as problem:
        findings.append(_finding("error", file, raw, str(problem)))
        return None
    if literal.bare:
        findings.append(
            _finding("warning", file, raw, f"taken as {describe(literal.value)}; write texts in quotes")
        )
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


@dataclass
class _Reader:
    """Lines become assignments; what is neither is told."""

    file: str
    findings: list[Finding]
    section: str | None = None
    current: _Raw | None = None
    seen: dict[str, int] = field(default_factory=dict)

    def take(self, line: str, number: int) -> _Raw | None:
        """Read a line; returns the assignment that it shows to be finished."""
        bare, brackets = _scan(line)
        header = _SECTION.match(line)
        assignment = _KEY.match(bare)
        current = self.current
        if current and current.depth > 0 and not _starts_anew(header, assignment, line):
            current.go_on(bare, brackets)
        elif not bare.strip():
            pass
        elif header:
            self._enter(header[1].strip(), number)
            return current
        elif assignment and self.section is None:
            self._odd(number, f"{assignment[1]} stands before any [section]; it is left out")
        elif assignment and self.section is not None:
            self.current = _Raw(
                self.section, assignment[1].lower(), number, [assignment[2].strip()], brackets
            )
            return current
        elif line[:1].isspace() and current:
            current.go_on(bare, brackets)
        else:
            self._odd(number, "expected [section] or key = value; the line is left out")
        return None

    def _enter(self, section: str, number: int) -> None:
        self.current, self.section = None, section
        if section in self.seen:
            self._odd(number, f"the section is written twice, line {self.seen[section]} too; both count")
        self.seen.setdefault(section, number)

    def _odd(self, line: int, message: str) -> None:
        self.findings.append(Finding("warning", self.file, line, self.section or "", "", message))


def _assignments(text: str, file: str, findings: list[Finding]) -> Iterator[_Raw]:
    reader = _Reader(file, findings)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        finished = reader.take(line, number)
        if finished:
            yield finished
    if reader.current:
        yield reader.current


def _starts_anew(header: re.Match[str] | None, assignment: re.Match[str] | None, line: str) -> bool:
    """Whether a line inside open brackets shows that a bracket was forgotten.

    ``[1, 2]`` may go on a list; a name in brackets at the line's start, or a key before an
    equals sign, cannot.
    """
    if line[:1].isspace():
        return False
    if header is not None and re.match(r"[A-Za-z_]\w*\Z", header[1]):
        return True
    return assignment is not None and "=" in line


def _scan(line: str) -> tuple[str, int]:
    """The line up to a ``;`` or ``#`` outside quotes, and how many brackets it leaves open."""
    depth = 0
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
            return line[:place], depth
        else:
            depth += (sign in _OPEN) - (sign in _CLOSE)
    return line, depth
