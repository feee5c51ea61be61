"""Names and durations as text."""

from __future__ import annotations

import pytest

from glomtile.formatting import listed, printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Größe ä [1].svs", "Größe ä [1].svs"),
        ("caf\udce9.svs", "caf\\xe9.svs"),
        ("\udcc3\udca9.svs", "é.svs"),  # UTF-8 under an ASCII locale
        ("\ud800.svs", "\\ud800.svs"),
        ("a\x1b[2J\r\n.svs", "a\\x1b[2J\\r\\n.svs"),
        ("a\u202egpj.svs", "a\\u202egpj.svs"),
    ],
)
def test_a_name_is_printed_so_that_any_terminal_and_file_takes_it(name: str, expected: str) -> None:
    assert printable(name) == expected
    printable(name).encode("utf-8")


def test_a_long_list_of_names_is_shortened() -> None:
    assert listed(["a.png", "caf\udce9.png", "b.png"], most=2) == "a.png, caf\\xe9.png and 1 more"
