"""Reader of INI configs in the dialect of the reference system, and the names of its settings."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from glomtile.config.fields import Finding, describe
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
    ast.Call,
    ast.Lambda,
    ast.Subscript,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.JoinedStr,
    ast.NamedExpr,
    ast.Await,
    ast.IfExp,
    ast.Starred,
)


class NotALiteralError(ValueError):
    """A value that is neither a literal nor plain text."""


@dataclass(frozen=True)
class ParsedValue:
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
        if any(isinstance(node, _CODE) for node in ast.walk(tree)):
            raise NotALiteralError("expected a plain value, got code") from problem
        if any(isinstance(node, ast.Constant) for node in ast.walk(tree)):
            raise NotALiteralError("expected a plain value, got a calculation") from problem
        return _plain(text, problem)


def read_path(text: str) -> ParsedValue:
    r"""Read one value that is a path; see `read_literal`.

    Single backslashes in quotes are literal if the text starts as a Windows path does, or has escapes that
    ``repr`` does not write: ``"C:\new\train"`` contains no line break, and ``"C:\data\"`` is complete.
    """
    quoted = _QUOTED.match(text.strip())
    if quoted and len(text) <= _MAX_CHARACTERS and _LONE_BACKSLASH.search(quoted[2]):
        written = quoted[2]
        if _WINDOWS_START.match(written) or not _ESCAPES_OF_REPR.match(written):
            return ParsedValue(written)
    return read_literal(text)


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

UNSUPPORTED_SECTIONS = {"infer3d": "3-D segmentation is not supported"}

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
    for entry in entries:
        section = _section(entry, file, seen, findings, action)
        if section is None:
            continue
        target, why = _target(section, entry.key, action)
        if target is None:
            findings.append(_warn(entry, file, why))
            continue
        if target != (section, entry.key):
            name = f"[{target[0]}] {target[1]}"
            ignored = target in written
            note = f"{why} {name}" + (", which is also set and takes precedence" if ignored else "")
            findings.append(_warn(entry, file, note))
            if ignored:
                continue
        resolved[target] = replace(entry, section=section)
    return resolved, findings


def _section(entry: Entry, file: str, seen: set[str], findings: list[Finding], action: str) -> str | None:
    """Return the schema's section of an entry; warn about each name once."""
    name = entry.section
    if name in SECTIONS:
        return name
    lower = name.strip().lower()
    known = lower in SECTIONS
    if name not in seen:
        seen.add(name)
        if known:
            message = f"section names are lower case; read as [{lower}]"
        elif lower in UNSUPPORTED_SECTIONS:
            message = f"{UNSUPPORTED_SECTIONS[lower]}; the section is {action}"
        else:
            message = f"unknown section, {action}" + _section_meant(name, entry.key)
        findings.append(Finding("warning", file, entry.line, name, "", message))
    return lower if known else None


def _section_meant(name: str, key: str) -> str:
    """Suggest the most similar section, else those that have the key."""
    near = nearest(name, SECTIONS)
    if near:
        return f"; did you mean [{near}]?"
    known = nearest(key, _SECTIONS_OF)
    if known:
        return f"; did you mean {known} of {' or '.join(f'[{home}]' for home in _SECTIONS_OF[known])}?"
    return ""


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
        return None, f"not a key of this section, {action}; it is one of " + ", ".join(
            f"[{home}]" for home in homes
        )
    near = nearest(key, SECTIONS[section].model_fields)
    if near:
        return None, f"unknown key, {action}; did you mean {near}?"
    near = nearest(key, _SECTIONS_OF)
    if near:
        homes_text = " or ".join(f"[{home}]" for home in _SECTIONS_OF[near])
        return None, f"unknown key, {action}; did you mean {near} of {homes_text}?"
    return None, f"unknown key, {action}"


def _warn(entry: Entry, file: str, message: str) -> Finding:
    return Finding("warning", file, entry.line, entry.section, entry.key, message)


_SECTION = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]\s*([;#].*)?\Z")
_KEY = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*[=:]\s*(.*)\Z", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


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


@dataclass(frozen=True)
class ParsedConfig:
    """The settings of a text in their order, and findings about it."""

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


@dataclass
class _Raw:
    """An assignment whose lines are being read."""

    section: str
    key: str
    line: int
    parts: list[str]
    depth: int

    def extend(self, unquoted: str, brackets: int) -> None:
        self.parts.append(unquoted.strip())
        self.depth += brackets

    @property
    def text(self) -> str:
        return " ".join(self.parts).strip()


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
    entries: dict[tuple[str, str], Entry] = {}
    for raw in _assignments(text, file, findings):
        entry = _read(raw, file, findings, paths)
        if entry is None:
            continue
        earlier = entries.pop((entry.section, entry.key), None)
        if earlier is not None:
            findings.append(
                _finding("warning", file, raw, f"duplicate of line {earlier.line}; the last one counts")
            )
        entries[entry.section, entry.key] = entry
    return ParsedConfig(tuple(entries.values()), tuple(sorted(findings, key=lambda finding: finding.line)))


def _read(raw: _Raw, file: str, findings: list[Finding], paths: Container[str]) -> Entry | None:
    if not raw.text:
        findings.append(_finding("warning", file, raw, "no value; left out"))
        return None
    try:
        literal = read_path(raw.text) if raw.key in paths else read_literal(raw.text)
    except NotALiteralError as problem:
        findings.append(_finding("error", file, raw, str(problem)))
        return None
    if literal.unquoted:
        findings.append(
            _finding("warning", file, raw, f"read as {describe(literal.value)}; write texts in quotes")
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
    """A reader that turns lines into assignments, with findings about other lines."""

    file: str
    findings: list[Finding]
    section: str | None = None
    current: _Raw | None = None
    seen: dict[str, int] = field(default_factory=dict)

    def take(self, line: str, number: int) -> _Raw | None:
        """Read a line; return the assignment that ends before it, if any."""
        unquoted, brackets = _scan(line)
        header = _SECTION.match(line)
        assignment = _KEY.match(unquoted)
        current = self.current
        if current and current.depth > 0 and not _starts_entry(header, assignment, line):
            current.extend(unquoted, brackets)
        elif not unquoted.strip():
            pass
        elif header:
            self._enter(header[1].strip(), number)
            return current
        elif assignment and self.section is None:
            self._warn(number, f"{assignment[1]} is before any [section]; left out")
        elif assignment and self.section is not None:
            self.current = _Raw(
                self.section, assignment[1].lower(), number, [assignment[2].strip()], brackets
            )
            return current
        elif line[:1].isspace() and current:
            current.extend(unquoted, brackets)
        else:
            self._warn(number, "expected [section] or key = value; left out")
        return None

    def _enter(self, section: str, number: int) -> None:
        self.current, self.section = None, section
        if section in self.seen:
            self._warn(number, f"duplicate of the section of line {self.seen[section]}; both count")
        self.seen.setdefault(section, number)

    def _warn(self, line: int, message: str) -> None:
        self.findings.append(Finding("warning", self.file, line, self.section or "", "", message))


def _assignments(text: str, file: str, findings: list[Finding]) -> Iterator[_Raw]:
    reader = _Reader(file, findings)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        finished = reader.take(line, number)
        if finished:
            yield finished
    if reader.current:
        yield reader.current


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
            depth += (sign in _OPEN) - (sign in _CLOSE)
    return line, depth
