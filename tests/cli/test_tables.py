"""A table fits its terminal, and says the same on any."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glomtile.cli.summaries import MOST_ROWS, scores_tables, slides_table
from glomtile.cli.tables import Column, cell_width, cut, printable, table_lines

COLUMNS = (
    Column("image", 9), Column("count", 8, right=True), Column("area", 1, right=True), Column("note", 7),
)  # fmt: skip
ROWS = [["biopsy-of-a-long-name-1.png", "12", "1,234.5", "doubtful: stain, scale"], ["b.png", "3", "", ""]]


def test_with_all_the_room_nothing_is_cut() -> None:
    assert table_lines(COLUMNS, ROWS) == [
        "image                        count     area  note",
        "biopsy-of-a-long-name-1.png     12  1,234.5  doubtful: stain, scale",
        "b.png                            3",
    ]


def test_texts_are_cut_before_a_column_is_left_out() -> None:
    assert table_lines(COLUMNS, ROWS, 52) == [
        "image              count     area  note",
        "biopsy-o…me-1.png     12  1,234.5  doubtful: stain,…",
        "b.png                  3",
    ]


def test_what_matters_least_is_left_out_first() -> None:
    assert table_lines(COLUMNS, ROWS, 44)[0].split() == ["image", "count", "note"]
    assert table_lines(COLUMNS, ROWS, 24)[0].split() == ["image", "count"]


@given(st.integers(24, 200), st.lists(st.tuples(*[st.text(max_size=40)] * 4), max_size=5))
def test_no_line_is_wider_than_the_terminal(width: int, rows: list[tuple[str, ...]]) -> None:
    columns = tuple(column._replace(right=False) for column in COLUMNS)
    assert all(cell_width(line) <= width for line in table_lines(columns, rows, width))


def test_wide_characters_count_twice_and_accents_not_at_all() -> None:
    assert cell_width("腎臓.svs") == 8
    assert cell_width("e\N{COMBINING ACUTE ACCENT}") == 1
    lines = table_lines(COLUMNS[:2], [["腎臓.svs", "1"], ["kidney12", "2"]])
    assert [cell_width(line) for line in lines] == [15, 15, 15]


def test_a_name_cannot_move_the_cursor_or_change_colours() -> None:
    told = "\n".join(table_lines(COLUMNS[:1], [["a\x1b[2J\x1b[31m\r\n\tb.png"]]))
    assert told == "image\na?[2J?[31m???b.png"
    assert printable("Schnitt ü") == "Schnitt ü"


def test_a_name_keeps_its_end() -> None:
    assert cut("biopsy-0001.png", 11, middle=True) == "biops…1.png"
    assert cut("biopsy-0001.png", 15, middle=True) == "biopsy-0001.png"
    assert cut("doubtful: stain", 9) == "doubtful…"


def image(name: str, **facts: object) -> dict[str, object]:
    return {
        "image": name, "status": "done", "glomerulus_count": 12, "glomerulus_mean_area_um2": 18400.2,
        "glomerulus_per_mm2": 13.04, "tissue_mm2": 0.92, "quality_flags": [], "windows": 40,
        "windows_skipped": 30, "seconds": 75.2, **facts,
    }  # fmt: skip


def test_slides_are_told_with_what_became_of_them() -> None:
    images = [
        image("a"),
        image("b", status="skipped", quality_flags=["stain: 2.1 times as far", "unsure: a Dice of 0.5"]),
        image("c", glomerulus_count=0, glomerulus_mean_area_um2=None),
    ]
    table = slides_table(images, [("d.svs", "expected a whole slide")])
    lines = table_lines(table.columns, [cells for cells, _ in table.rows])
    assert lines == [
        "image  glomerulus  mean µm²  per mm²  tissue mm²      time  note",
        "a              12    18,400       13        0.92  1:15 min",
        "b              12    18,400       13        0.92            flagged: stain, unsure; done before",
        "c               0                 13        0.92  1:15 min",
        "d.svs                                                       failed",
    ]
    assert [style for _, style in table.rows] == ["", "yellow", "", "red"]
    assert table.closing == (
        "4 images: 2 done, 1 done before, 1 failed, 1 flagged; 60 of 80 windows skipped as glass",
    )


def test_of_many_slides_those_that_ask_for_a_look_come_first() -> None:
    images = [image(f"s{number}", quality_flags=["stain: far"] * (number == 90)) for number in range(100)]
    table = slides_table(images, [("z.svs", "cut off")])
    assert len(table.rows) == MOST_ROWS
    assert [cells[0] for cells, _ in table.rows[:3]] == ["z.svs", "s90", "s0"]
    assert table.closing[0] == f"… and {101 - MOST_ROWS} more in summary.csv"


def test_figures_stand_with_their_intervals_and_the_worst_images() -> None:
    def figure(value: float | None, low: float | None = None, high: float | None = None) -> object:
        return {"value": value, "low": low, "high": high}

    figures = {
        "pooled_dice": figure(0.84, 0.779, 0.883), "mean_dice": figure(0.831, 0.771, 0.882),
        "pooled_precision": figure(0.925), "pooled_recall": figure(None),
        "object_f1": figure(0.778, 0.5, 1.0),
    }  # fmt: skip
    entry = {
        "name": "glomerulus",
        "figures": figures,
        "objects": {"true_positive": 14, "false_positive": 6, "false_negative": 2},
    }
    outcome = {
        "scores": {"images": 14, "classes": [entry]},
        "worst": [{"image": "10103", "class": "glomerulus", "dice": 0.4412}],
    }
    (table,) = scores_tables(outcome)
    assert table_lines(table.columns, [cells for cells, _ in table.rows], 50) == [
        "glomerulus, 14 images  value      95 % interval",
        "pooled Dice            0.840      0.779 to 0.883",
        "mean Dice              0.831      0.771 to 0.882",
        "pooled precision       0.925",
        "pooled recall          undefined",
        "object F1              0.778      0.500 to 1.000",
    ]
    assert table.closing == (
        "objects: 14 true positives, 6 false positives, 2 false negatives",
        "worst images by Dice: 10103 0.441",
    )  # fmt: skip
