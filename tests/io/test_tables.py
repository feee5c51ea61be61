from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.errors import InputError
from glomtile.io.tables import read_csv, require_numbers, write_csv

cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1).map(str.strip)


@given(st.lists(st.lists(cells, min_size=2, max_size=2).filter(any), max_size=5))
def test_a_table_comes_back_unchanged(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_csv(path, ["a", "b"], rows)
    assert read_csv(path) == [{"a": a, "b": b} for a, b in rows]


def test_numbers_are_rounded_and_the_undefined_stays_empty(tmp_path):
    row = ["x", 1 / 3, np.float32(0.5), np.int64(7), float("nan"), None]
    path = write_csv(tmp_path / "t.csv", list("abcdef"), [row])
    assert path.read_text() == "a,b,c,d,e,f\nx,0.333333,0.5,7,,\n"


def test_a_name_of_bytes_that_are_not_utf8_is_escaped(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["x"], [["caf\udce9.svs"]])
    assert path.read_text() == "x\ncaf\\xe9.svs\n"


def test_a_row_of_another_length_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="expected 2 cells"):
        write_csv(tmp_path / "t.csv", ["a", "b"], [[1]])
    assert list(tmp_path.iterdir()) == []


def test_python_csv_reads_commas_quotes_and_line_breaks_back(tmp_path):
    nasty = 'a,"b"\nc'
    path = write_csv(tmp_path / "t.csv", ["x"], [[nasty]])
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [["x"], [nasty]]


def test_the_reference_metric_table_with_its_trailing_comma_is_read(tmp_path):
    path = tmp_path / "train_metrics.csv"
    path.write_text("epoch,dice,val_dice,\n0, 0.3830, 0.4049\n1, 0.5, 0.6,\n")
    assert read_csv(path) == [
        {"epoch": "0", "dice": "0.3830", "val_dice": "0.4049"},
        {"epoch": "1", "dice": "0.5", "val_dice": "0.6"},
    ]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_ignored(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfstem,group\r\n\r\na,1\r\n")
    assert read_csv(path, required=("stem", "group")) == [{"stem": "a", "group": "1"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"stem;group\na;1\n", "separate columns with commas"),
        (b"stem\na\n", "expected the columns stem, group, got stem"),
        (b"stem,group,stem\n", "got stem twice"),
        (b"stem,group\na\n", "t.csv:2: expected 2 cells, got 1"),
        (b"stem,group\n\xff\xfe,1\n", "expected UTF-8"),
    ],
)
def test_an_unusable_table_is_explained(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_csv(path, required=("stem", "group"))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: expected a readable table, got: No such file"):
        read_csv(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("cell", "whole", "expected"),
    [
        ("0,5", False, "a number under x in row 2, got '0,5'"),
        ("nan", False, "got 'nan'"),
        ("inf", False, "got 'inf'"),
        ("1.5", True, "a whole number under x in row 2, got '1.5'"),
        ("", True, "got ''"),
        ("²", True, "got '²'"),
    ],
)
def test_a_cell_that_is_no_number_is_named(tmp_path, cell, whole, expected):
    with pytest.raises(InputError, match=expected):
        require_numbers(tmp_path / "t.csv", [{"x": "-1"}, {"x": cell}], ["x", "y"], whole=whole)


def test_written_numbers_are_read_as_numbers(tmp_path):
    path = write_csv(
        tmp_path / "t.csv", ["a", "b"], [[1.5, -3], [None, 0], [float("nan"), 10**20], [1e-7, 2]]
    )
    rows = read_csv(path)
    require_numbers(path, rows, ["a", "b"])
    require_numbers(path, rows, ["b"], whole=True)
