"""Durations and names as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters, and those that change the direction of the text around them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(name: object) -> str:
    r"""Return a name as text that any terminal and any UTF-8 file can hold.

    Bytes of a file name that are not UTF-8, and control characters, are written as ``\xNN``.

    Examples
    --------
    >>> printable("caf\udce9.svs"), printable("a\x1b[2J.svs")
    ('caf\\xe9.svs', 'a\\x1b[2J.svs')
    """
    text = str(name)
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def listed(names: Sequence[object], most: int = 10) -> str:
    """Return names separated by commas, those beyond the first ones as a number.

    Examples
    --------
    >>> listed(["a.png", "b.png", "c.png"], most=2)
    'a.png, b.png and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more


def duration(seconds: float) -> str:
    """Return seconds as text.

    Examples
    --------
    >>> duration(0.24), duration(42), duration(190), duration(7500)
    ('0.2 s', '42 s', '3:10 min', '2:05 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
