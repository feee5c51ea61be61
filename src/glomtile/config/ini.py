"""Reader of INI configs in the dialect of the reference system, and the names of its settings."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from glomtile.config.findings import Finding, describe
from glomtile.config.schema import SECTIONS

_MAX_CHARACTERS = 65_536
MAX_DEPTH = 50
"""Deepest nesting of brackets or tables in a value."""

_PLAIN_TEXT = re.compile(r"[\w./\\:~%+@$&#!? -]*\Z")
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1\s*(?:[;#].*)?\Z""")
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\(?:\\\\)*(?!\\)")
_WINDOWS_START = re.compile(r"[A-Za-z]:\\|\\\\|\.{1,2}\\\w\w")
_ESCAPES_OF_REPR = re.compile(
    r"(?:[^\\]|\\\\|\\[nrt]|\\0(?!\d)|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*\Z"
)
"""Text with escapes that ``repr`` writes; other backslashes are literal."""
_ADVICE = "write / or double the backslash"
_BARE_WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
_CODE = (
    ast.Call, ast.Lambda, ast.Subscript, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.JoinedStr, ast.NamedExpr, ast.Await, ast.IfExp, ast.Starred,
)  # fmt: skip


class NotALiteralError(ValueError):
    """A value that is neither a literal nor plain text."""


class ParsedValue(NamedTuple):
    """A value read from text.

    Parameters
    ----------
    value : object
        Numbers, texts, True, False, None, and lists, tuples, sets and dicts of these.
    unquoted : bool
        True for a text without quotes.
    """

    value: object
    unquoted: bool = False


def read_literal(text: str) -> ParsedValue:
    """Read one value: ``0.5``, ``"Adam"``, ``(3, 3)``, ``{(0, 0, 0): 0}``, or text without quotes.

    Raises
    ------
    NotALiteralError
        The text is code (a call, an expression, a comprehension …), is incomplete, or is longer or deeper
        than any setting.
    """
    text = text.strip()
    if not text:
        raise NotALiteralError("expected a value, got nothing")
    if len(text) > _MAX_CHARACTERS:
        raise NotALiteralError(f"expected a value of at most {_MAX_CHARACTERS} characters, got {len(text)}")
    if text.lower() in _BARE_WORDS:
        return ParsedValue(_BARE_WORDS[text.lower()], unquoted=text not in ("True", "False", "None"))
    if _depth(text) > MAX_DEPTH:
        raise NotALiteralError(f"expected at most {MAX_DEPTH} nested brackets, got more")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a backslash in a Windows path
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        return _plain(text, problem)
    try:
        return ParsedValue(ast.literal_eval(tree))
    except (ValueError, TypeError, RecursionError, MemoryError) as problem:
        for kinds, what in ((_CODE, "code"), (ast.Constant, "a calculation")):
            if any(isinstance(node, kinds) for node in ast.walk(tree)):
                raise NotALiteralError(f"expected a plain value, got {what}") from problem
        return _plain(text, problem)


def read_path(text: str) -> ParsedValue:
    r"""Read one value that is a path; see `read_literal`.

    Single backslashes in quotes are literal if the text starts as a Windows path does, or has escapes that
    ``repr`` does not write: ``"C:\new\train"`` contains no line break, and ``"C:\data\"`` is complete.
    """
    quoted = _QUOTED.match(text.strip())
    written = quoted[2] if quoted and len(text) <= _MAX_CHARACTERS else ""
    windows = _WINDOWS_START.match(written) or not _ESCAPES_OF_REPR.match(written)
    return ParsedValue(written) if windows and _LONE_BACKSLASH.search(written) else read_literal(text)


def control_character(value: object, text: str) -> str | None:
    r"""Return a warning if a backslash of `text` gave a control character, as in ``"C:\new"``."""
    found = re.search(r"[\x00-\x1f\x7f]", value) if isinstance(value, str) and "\\" in text else None
    if found is None:
        return None
    return f"contains the control character {found[0]!r} because of a backslash; {_ADVICE}"


def _plain(text: str, problem: Exception) -> ParsedValue:
    if _PLAIN_TEXT.match(text) and re.search(r"[^\W\d]", text):
        return ParsedValue(text, unquoted=True)
    if "(" in text and re.search(r"\w\s*\(", text):
        raise NotALiteralError("expected a plain value, got code") from problem
    if "\\" in text and _is_literal(text.replace("\\", "/")):
        message = f"expected backslashes that Python can read, got others; {_ADVICE}"
        raise NotALiteralError(message) from problem
    raise NotALiteralError("expected a number, a text in quotes or a list") from problem


def _is_literal(text: str) -> bool:
    try:
        return not read_literal(text).unquoted
    except NotALiteralError:
        return False


def _depth(text: str) -> int:
    deepest = depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest


SettingName = tuple[str, str]

_FORMER = "former name of"
_MISSPELT = "misspelt; read as"
_MISPLACED = "wrong section; read as"

ALIASES: dict[SettingName, tuple[SettingName, str]] = {
    ("train", "image_datapath"): (("train", "images_dir"), _FORMER),
    ("train", "mask_datapath"): (("train", "masks_dir"), _FORMER),
    ("eval", "image_datapath"): (("valid", "images_dir"), _FORMER),
    ("eval", "mask_datapath"): (("valid", "masks_dir"), _FORMER),
    ("test", "image_datapath"): (("test", "images_dir"), _FORMER),
    ("test", "mask_datapath"): (("test", "masks_dir"), _FORMER),
    ("train", "epoch_change_tiledinfer"): (("train", "epoch_change_tiled_infer"), _FORMER),
    ("train", "epoch_change_tiledinfer_dir"): (("train", "epoch_change_tiled_infer_dir"), _FORMER),
    ("train", "poch_change_infer"): (("train", "epoch_change_infer"), _MISSPELT),
    ("deformation", "alpah"): (("deformation", "alpha"), _MISSPELT),
    ("model", "color_order"): (("image", "color_order"), _MISPLACED),
    ("eval", "eval_dir"): (("train", "eval_dir"), _MISPLACED),
}
"""Keys that are read under another name, and why."""

_SECTIONS_OF: dict[str, tuple[str, ...]] = {}
for _name, _settings in SECTIONS.items():
    for _key in _settings.model_fields:
        _SECTIONS_OF[_key] = (*_SECTIONS_OF.get(_key, ()), _name)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar name, None without a similar one."""
    written = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(written), n=1, cutoff=0.7)
    return written[close[0]] if close else None


def resolve_names(
    entries: Sequence[Entry], file: str, action: str = "left out"
) -> tuple[dict[SettingName, Entry], list[Finding]]:
    """Find the section and key of the schema for each entry.

    Parameters
    ----------
    entries : sequence of Entry
    file : str
        For the findings.
    action : str, optional
        The caller's treatment of unknown names, in words.

    Returns
    -------
    resolved : dict
        ``(section, key)`` of the schema to its entry.
    findings : list of Finding
        A warning for each entry that was renamed, moved or left out.
    """
    resolved: dict[SettingName, Entry] = {}
    written = {(entry.section.strip().lower(), entry.key) for entry in entries}
    findings: list[Finding] = []
    seen: set[str] = set()

    def warn(entry: Entry, message: str, key: str) -> None:
        findings.append(Finding("warning", file, entry.line, entry.section, key, message))

    for entry in entries:
        section = entry.section.strip().lower()
        if entry.section not in SECTIONS and entry.section not in seen:
            seen.add(entry.section)
            warn(entry, _section_message(section, entry, action), "")
        if section not in SECTIONS:
            continue
        target, why = _target(section, entry.key, action)
        if target is None:
            warn(entry, why, entry.key)
            continue
        if target != (section, entry.key):
            ignored = target in written
            precedence = ", which is also set and takes precedence" if ignored else ""
            warn(entry, f"{why} [{target[0]}] {target[1]}{precedence}", entry.key)
            if ignored:
                continue
        resolved[target] = replace(entry, section=target[0], key=target[1])
    return resolved, findings


def _section_message(section: str, entry: Entry, action: str) -> str:
    """Describe a section that is not written as in the schema, with the most similar one or its key's."""
    if section in SECTIONS:
        return f"section names are lower case; read as [{section}]"
    if section == "infer3d":
        return f"3-D segmentation is not supported; the section is {action}"
    message = f"unknown section, {action}"
    if near := nearest(entry.section, SECTIONS):
        return f"{message}; did you mean [{near}]?"
    if known := nearest(entry.key, _SECTIONS_OF):
        return f"{message}; did you mean {known} of {_homes(known)}?"
    return message


def _target(section: str, key: str, action: str) -> tuple[SettingName | None, str]:
    """Return the name of ``[section] key`` in the schema, if any, and the reason."""
    if key in SECTIONS[section].model_fields:
        return (section, key), ""
    if (section, key) in ALIASES:
        return ALIASES[section, key]
    homes = _SECTIONS_OF.get(key, ())
    if len(homes) == 1:
        return (homes[0], key), _MISPLACED
    if homes:
        return None, f"not a key of this section, {action}; it is one of {_homes(key, ', ')}"
    message = f"unknown key, {action}"
    if near := nearest(key, SECTIONS[section].model_fields):
        return None, f"{message}; did you mean {near}?"
    if near := nearest(key, _SECTIONS_OF):
        return None, f"{message}; did you mean {near} of {_homes(near)}?"
    return None, message


def _homes(key: str, joint: str = " or ") -> str:
    return joint.join(f"[{home}]" for home in _SECTIONS_OF[key])


_SECTION = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]\s*([;#].*)?\Z")
_KEY = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*[=:]\s*(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One setting of a file.

    Parameters
    ----------
    section, key : str
        In lower case.
    value : object
        The literal read from `text`.
    text : str
        The value without comment.
    line : int
        Counted from 1.
    """

    section: str
    key: str
    value: object
    text: str
    line: int

    def finding(self, severity: Literal["error", "warning"], file: str, message: str) -> Finding:
        """Return a finding about the value."""
        return Finding(severity, file, self.line, self.section, self.key, message, self.text or None)


class ParsedConfig(NamedTuple):
    """The settings of a text in their order, and findings about it."""

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


def parse(text: str, file: str = "", paths: Container[str] = ()) -> ParsedConfig:
    """Read the INI dialect.

    Parameters
    ----------
    text : str
        The whole file.
    file : str, optional
        Its name, for the findings.
    paths : container of str, optional
        Keys whose values are paths, see `read_path`.

    Returns
    -------
    ParsedConfig
        Each key once: the last one counts, with a warning.

    Notes
    -----
    Unlike in the reference system, values are never evaluated, ``%`` has no meaning, a single backslash in a
    Windows path is literal, and a duplicate key or a bad value does not reset other keys to their defaults.
    """
    findings: list[Finding] = []
    entries: dict[SettingName, Entry] = {}
    for raw in _assignments(text, file, findings):
        if not raw.text:
            findings.append(raw.finding("warning", file, "no value; left out"))
            continue
        try:
            value, unquoted = (read_path if raw.key in paths else read_literal)(raw.text)
        except NotALiteralError as problem:
            findings.append(raw.finding("error", file, str(problem)))
            continue
        if unquoted:
            message = f"read as {describe(value)}; write texts in quotes"
            findings.append(raw.finding("warning", file, message))
        if earlier := entries.pop((raw.section, raw.key), None):
            message = f"duplicate of line {earlier.line}; the last one counts"
            findings.append(raw.finding("warning", file, message))
        entries[raw.section, raw.key] = replace(raw, value=value)
    return ParsedConfig(tuple(entries.values()), tuple(sorted(findings, key=lambda finding: finding.line)))


def _assignments(text: str, file: str, findings: list[Finding]) -> Iterator[Entry]:
    """Yield entries whose values are not read yet; add findings about lines that are no settings."""
    section: str | None = None
    first_lines: dict[str, int] = {}
    key, key_line, depth = "", 0, 0
    parts: list[str] = []  # of the value of `key`, line by line

    def warn(message: str) -> None:
        findings.append(Finding("warning", file, number, section or "", "", message))

    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        code, brackets = _scan(line)
        header, assignment = _SECTION.match(line), _KEY.match(code)
        if key and depth > 0 and not _starts_entry(header, assignment, line):
            parts.append(code.strip())
            depth += brackets
        elif not code.strip():
            continue
        elif header or (assignment and section is not None):
            if key and section is not None:
                yield Entry(section, key, None, " ".join(parts).strip(), key_line)
            if assignment and not header:
                key, key_line, depth = assignment[1].lower(), number, brackets
                parts = [assignment[2].strip()]
            elif header:
                key, section = "", header[1].strip()
                if section in first_lines:
                    warn(f"duplicate of the section of line {first_lines[section]}; both count")
                first_lines.setdefault(section, number)
        elif assignment:
            warn(f"{assignment[1]} is before any [section]; left out")
        elif line[:1].isspace() and key:
            parts.append(code.strip())
            depth += brackets
        else:
            warn("expected [section] or key = value; left out")
    if key and section is not None:
        yield Entry(section, key, None, " ".join(parts).strip(), key_line)


def _starts_entry(header: re.Match[str] | None, assignment: re.Match[str] | None, line: str) -> bool:
    """Return whether a line inside open brackets starts a section or a key, so that a bracket is missing.

    ``[1, 2]`` may continue a list; ``[name]`` or ``key =`` at the start of a line cannot.
    """
    if line[:1].isspace():
        return False
    if header is not None and re.match(r"[A-Za-z_]\w*\Z", header[1]):
        return True
    return assignment is not None and "=" in line


def _scan(line: str) -> tuple[str, int]:
    """Return the line up to a ``;`` or ``#`` outside quotes, and its number of open brackets."""
    depth = 0
    quote = ""
    escaped = False
    for position, sign in enumerate(line):
        if escaped:
            escaped = False
        elif quote:
            escaped = sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in ";#":
            return line[:position], depth
        else:
            depth += (sign in "([{") - (sign in ")]}")
    return line, depth
