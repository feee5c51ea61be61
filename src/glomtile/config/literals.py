"""What may stand as a value: Python's literals, or plain text; nothing is ever evaluated."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass

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
