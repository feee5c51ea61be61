"""Where things stand in TOML text, and in a user's words why a text is no TOML; tomllib keeps neither."""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w-]+)\"?\s*)?\]")
_ASSIGNMENT = re.compile(r"\s*\"?([\w-]+)\"?\s*=\s*(.*)")
_DOUBLED_SECTION = re.compile(r"Cannot declare \('([\w-]+)',\) twice")
_INI_SIGNS = re.compile(r"(?m)^[ \t]*(?:;|\w+[ \t]*[=:][ \t]*(?:True\b|False\b|None\b|\(|\{[ \t]*\())")

Places = dict[tuple[str, str], tuple[int, str]]


def places(text: str) -> Places:
    """Line, counted from 1, and written value of each ``(section, key)``, where it stands first."""
    found: Places = {}
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        header = _HEADER.match(line)
        assignment = _ASSIGNMENT.match(line)
        if header:
            section = header[1]
            if header[2]:
                found.setdefault((section, header[2]), (number, ""))
        elif assignment:
            value = assignment[2].split(" #")[0].strip()
            found.setdefault((section, assignment[1]), (number, value))
    return found


def fault(text: str, problem: Exception) -> tuple[int, str]:
    """Line and message for what tomllib refused; line 0 where none is at fault."""
    said = str(problem)
    found = re.search(r"at line (\d+)", said)
    number = int(found[1]) if found else 0
    lines = text.split("\n")
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    message = _doubled(lines, number, said)
    if message is None:
        where = re.sub(r" \(at line \d+, (column \d+)\)", r" at \1", said)
        message = f"expected TOML, got something else: {where}"
        message += _ini_hint(text) or _value_hint(line)
    return number, message


def _doubled(lines: list[str], number: int, said: str) -> str | None:
    """A key or section that is written twice, by its name."""
    table = _DOUBLED_SECTION.match(said)
    if table:
        headers = ((at, _HEADER.match(line)) for at, line in enumerate(lines[: number - 1], start=1))
        first = next((at for at, header in headers if header and header.groups() == (table[1], None)), 0)
        return f"the section [{table[1]}] is written twice{_too(first)}; keep one of them"
    if not said.startswith("Cannot overwrite a value"):
        return None
    section, key = "", ""
    seen: dict[tuple[str, str], int] = {}
    for at, line in enumerate(lines[:number], start=1):
        if header := _HEADER.match(line):
            section, key = header[1], ""
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment[1]
            seen.setdefault((section, key), at)
    if not key:
        return None
    first = seen[section, key]
    too = _too(first if first < number else 0)
    return f"[{section}] {key} is written twice{too}; keep one of them"


def _too(first: int) -> str:
    return f", line {first} too" if first else ""


def _ini_hint(text: str) -> str:
    signs = _INI_SIGNS.findall(text)
    if len(signs) < 2 and not any(sign.strip() == ";" for sign in signs):
        return ""
    return "; this looks like the INI dialect: give the file a name that ends in .config"


def _value_hint(line: str) -> str:
    assignment = _ASSIGNMENT.match(line)
    value = assignment[2].split("#")[0].strip() if assignment else ""
    if value.lower() in ("none", "null"):
        return '; write "none" in quotes'
    if value.lower() in ("true", "false"):
        return f"; write {value.lower()} in small letters"
    if value.startswith("("):
        return "; write lists in square brackets"
    if re.match(r"[A-Za-z./~\\]", value):
        return "; write texts in quotes"
    return ""
