"""Reader of INI configs in the dialect of the reference system."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from glomtile.config.fields import Finding, describe
from glomtile.config.schema import SECTIONS

_LONGEST = 65_536
DEEPEST = 50
"""How many brackets or tables a value may hold within each other."""

_PLAIN_TEXT = re.compile(r"[\w./\\:~%+@$&#!? -]*\Z")
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1\s*(?:[;#].*)?\Z""")
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\(?:\\\\)*(?!\\)")
_WINDOWS_START = re.compile(r"[A-Za-z]:\\|\\\\|\.{1,2}\\\w\w")
_ESCAPES_OF_REPR = re.compile(
    r"(?:[^\\]|\\\\|\\[nrt]|\\0(?!\d)|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*\Z"
)
"""A text that Python may have written, or one of a null sign: who wrote other backslashes meant them."""
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
    """A value that is neither a literal nor plain text; the message says what it is."""


@dataclass(frozen=True)
class Literal:
    """A value read from text.

    Parameters
    ----------
    value : object
        Numbers, texts, True, False, None, and lists, tuples, sets and dicts of these.
    bare : bool
        Whether it was a text without quotes.
    """

    value: object
    bare: bool = False


def read_literal(text: str) -> Literal:
    """Read one value.

    Parameters
    ----------
    text : str
        ``0.5``, ``"Adam"``, ``(3, 3)``, ``{(0, 0, 0): 0}``; a word or path without quotes is
        taken as text.

    Returns
    -------
    Literal

    Raises
    ------
    NotALiteralError
        The text is code (a call, an expression, a comprehension …), is broken off, or is
        longer or deeper than any setting.
    """
    text = text.strip()
    if not text:
        raise NotALiteralError("expected a value, got nothing")
    if len(text) > _LONGEST:
        raise NotALiteralError(f"expected a value of at most {_LONGEST} characters, got {len(text)}")
    if text.lower() in _BARE_WORDS:
        return Literal(_BARE_WORDS[text.lower()], bare=text not in ("True", "False", "None"))
    if _depth(text) > DEEPEST:
        raise NotALiteralError(f"expected at most {DEEPEST} brackets within each other, got more")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an odd backslash in a Windows path
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        return _plain(text, problem)
    try:
        return Literal(ast.literal_eval(tree))
    except (ValueError, TypeError, RecursionError, MemoryError) as problem:
        if any(isinstance(node, _CODE) for node in ast.walk(tree)):
            raise NotALiteralError("expected a plain value, got code") from problem
        if any(isinstance(node, ast.Constant) for node in ast.walk(tree)):
            raise NotALiteralError("expected a plain value, got a calculation") from problem
        return _plain(text, problem)


def read_path(text: str) -> Literal:
    r"""Read one value that names a file or folder.

    Parameters
    ----------
    text : str
        A text in quotes with backslashes that are not doubled is taken as it is written, a comment behind it
        left out, where it begins as Windows' paths do or Python would write no such text:
        ``"C:\new\train"`` holds no line break, and ``"C:\data\"`` ends there. Anything else is read as
        `read_literal` reads it, ``"C:\\new\\train"`` too.

    Returns
    -------
    Literal

    Raises
    ------
    NotALiteralError
        See `read_literal`.
    """
    quoted = _QUOTED.match(text.strip())
    if quoted and len(text) <= _LONGEST and _LONE_BACKSLASH.search(quoted[2]):
        written = quoted[2]
        if _WINDOWS_START.match(written) or not _ESCAPES_OF_REPR.match(written):
            return Literal(written)
    return read_literal(text)


def control_character(value: object, text: str) -> str | None:
    r"""What to say of a value that holds a control character because of a backslash; mostly nothing.

    Parameters
    ----------
    value : object
        As it was read.
    text : str
        As it was written: ``"C:\new"``, whose backslash and n were read as a line break.
    """
    found = re.search(r"[\x00-\x1f\x7f]", value) if isinstance(value, str) and "\\" in text else None
    if found is None:
        return None
    return f"holds the control character {found[0]!r}, which a backslash made; {_ADVICE}"


def _plain(text: str, problem: Exception) -> Literal:
    if _PLAIN_TEXT.match(text) and re.search(r"[^\W\d]", text):
        return Literal(text, bare=True)
    if "(" in text and re.search(r"\w\s*\(", text):
        raise NotALiteralError("expected a plain value, got code") from problem
    if "\\" in text and _is_literal(text.replace("\\", "/")):
        message = f"expected a text whose backslashes make sense to Python, got others; {_ADVICE}"
        raise NotALiteralError(message) from problem
    raise NotALiteralError("expected a number, a text in quotes or a list, got none of these") from problem


def _is_literal(text: str) -> bool:
    try:
        return not read_literal(text).bare
    except NotALiteralError:
        return False


def _depth(text: str) -> int:
    deepest = depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest


Place = tuple[str, str]

_OLDER = "an older name of"
_MISSPELT = "misspelt; read as"
_MISPLACED = "belongs elsewhere; read as"

ALIASES: dict[Place, tuple[Place, str]] = {
    ("train", "image_datapath"): (("train", "images_dir"), _OLDER),
    ("train", "mask_datapath"): (("train", "masks_dir"), _OLDER),
    ("eval", "image_datapath"): (("valid", "images_dir"), _OLDER),
    ("eval", "mask_datapath"): (("valid", "masks_dir"), _OLDER),
    ("test", "image_datapath"): (("test", "images_dir"), _OLDER),
    ("test", "mask_datapath"): (("test", "masks_dir"), _OLDER),
    ("train", "epoch_change_tiledinfer"): (("train", "epoch_change_tiled_infer"), _OLDER),
    ("train", "epoch_change_tiledinfer_dir"): (("train", "epoch_change_tiled_infer_dir"), _OLDER),
    ("train", "poch_change_infer"): (("train", "epoch_change_infer"), _MISSPELT),
    ("deformation", "alpah"): (("deformation", "alpha"), _MISSPELT),
    ("model", "color_order"): (("image", "color_order"), _MISPLACED),
    ("eval", "eval_dir"): (("train", "eval_dir"), _MISPLACED),
}
"""Keys we read under another name, and why."""

UNSUPPORTED_SECTIONS = {"infer3d": "3-D segmentation is not supported"}

_SECTIONS_OF: dict[str, tuple[str, ...]] = {}
for _name, _settings in SECTIONS.items():
    for _key in _settings.model_fields:
        _SECTIONS_OF[_key] = (*_SECTIONS_OF.get(_key, ()), _name)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, ``None`` when none is near."""
    written = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(written), n=1, cutoff=0.7)
    return written[close[0]] if close else None


def place(
    entries: Sequence[Entry], file: str, fate: str = "left out"
) -> tuple[dict[Place, Entry], list[Finding]]:
    """Bring each entry to the section and key of the schema.

    Parameters
    ----------
    entries : sequence of Entry
        As they were written.
    file : str
        For the findings.
    fate : str, optional
        What the caller does with a name that is no setting, in words.

    Returns
    -------
    placed : dict
        ``(section, key)`` of the schema to the entry that fills it, as written.
    findings : list of Finding
        A warning for each entry that was renamed, moved or left out.
    """
    placed: dict[Place, Entry] = {}
    written = {(entry.section.strip().lower(), entry.key) for entry in entries}
    findings: list[Finding] = []
    told: set[str] = set()
    for entry in entries:
        section = _section(entry, file, told, findings, fate)
        if section is None:
            continue
        target, why = _target(section, entry.key, fate)
        if target is None:
            findings.append(_warn(entry, file, why))
            continue
        if target != (section, entry.key):
            name = f"[{target[0]}] {target[1]}"
            ignored = target in written
            note = f"{why} {name}" + (", which is written too and counts" if ignored else "")
            findings.append(_warn(entry, file, note))
            if ignored:
                continue
        placed[target] = replace(entry, section=section)
    return placed, findings


def _section(entry: Entry, file: str, told: set[str], findings: list[Finding], fate: str) -> str | None:
    """The schema's section of an entry; what is odd about its name is told once."""
    name = entry.section
    if name in SECTIONS:
        return name
    lower = name.strip().lower()
    known = lower in SECTIONS
    if name not in told:
        told.add(name)
        if known:
            message = f"section names are small letters; read as [{lower}]"
        elif lower in UNSUPPORTED_SECTIONS:
            message = f"{UNSUPPORTED_SECTIONS[lower]}; the section is {fate}"
        else:
            message = f"unknown section, {fate}" + _section_meant(name, entry.key)
        findings.append(Finding("warning", file, entry.line, name, "", message))
    return lower if known else None


def _section_meant(name: str, key: str) -> str:
    """The section that was meant: the one named most alike, else those that have the key."""
    near = nearest(name, SECTIONS)
    if near:
        return f"; did you mean [{near}]?"
    known = nearest(key, _SECTIONS_OF)
    if known:
        return f"; did you mean {known} of {' or '.join(f'[{home}]' for home in _SECTIONS_OF[known])}?"
    return ""


def _target(section: str, key: str, fate: str) -> tuple[Place | None, str]:
    """Where ``[section] key`` goes, and why there or why nowhere."""
    if key in SECTIONS[section].model_fields:
        return (section, key), ""
    if (section, key) in ALIASES:
        return ALIASES[section, key]
    homes = _SECTIONS_OF.get(key, ())
    if len(homes) == 1:
        return (homes[0], key), _MISPLACED
    if homes:
        return None, f"not a key of this section, {fate}; it is one of " + ", ".join(
            f"[{home}]" for home in homes
        )
    near = nearest(key, SECTIONS[section].model_fields)
    if near:
        return None, f"unknown key, {fate}; did you mean {near}?"
    near = nearest(key, _SECTIONS_OF)
    if near:
        homes_text = " or ".join(f"[{home}]" for home in _SECTIONS_OF[near])
        return None, f"unknown key, {fate}; did you mean {near} of {homes_text}?"
    return None, f"unknown key, {fate}"


def _warn(entry: Entry, file: str, message: str) -> Finding:
    return Finding("warning", file, entry.line, entry.section, entry.key, message)


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
