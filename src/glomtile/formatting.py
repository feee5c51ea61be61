"""Durations and numbers as text."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words.

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
