from __future__ import annotations

import math
import sys

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.datasets.statistics import Stain
from glomtile.errors import InputError
from glomtile.io.images import read_image
from glomtile.plotting import (
    Curves,
    area_histogram_svg,
    calibration_svg,
    count_scatter_svg,
    curves_svg,
    draw_class_shares,
    draw_counts,
    draw_sizes,
    draw_stains,
    plot_curves,
    read_curves,
)

LOSSES = "epoch, loss, val_loss\n0, 0.3830, 0.4049\n1, 0.2500, 0.3000\n2, 0.2000, \n"


def test_curves_are_read_from_the_reference_layout(tmp_path):
    path = tmp_path / "train_losses.csv"
    path.write_text(LOSSES)
    curves = read_curves(path)
    assert curves.x == (0, 1, 2)
    assert curves.series["loss"] == (0.383, 0.25, 0.2)
    assert math.isnan(curves.series["val_loss"][2])


@pytest.mark.parametrize("rows", [LOSSES, "epoch,loss\n", "epoch,loss,\n0, nan\n", "epoch,_a$b\n0,1\n1,2\n"])
def test_a_plot_is_drawn_at_any_stage_of_training(tmp_path, rows):
    source = tmp_path / "train_losses.csv"
    source.write_text(rows)
    image = read_image(plot_curves(source, tmp_path / "train_losses.png", "loss $x_{"))
    assert image.shape[1] > 400
    assert len(np.unique(image)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train_losses.csv", "train_losses.png"]


def test_the_plot_follows_the_table(tmp_path):
    source = tmp_path / "t.csv"
    images = []
    for rows in (LOSSES, LOSSES.replace("0.2500", "0.9")):
        source.write_text(rows)
        images.append(read_image(plot_curves(source, tmp_path / "t.png", "t")))
    assert images[0].shape == images[1].shape
    assert (images[0] != images[1]).any()


def test_a_cell_that_is_no_number_leaves_the_old_plot_alone(tmp_path):
    source, target = tmp_path / "t.csv", tmp_path / "t.png"
    source.write_text(LOSSES)
    plot_curves(source, target, "t")
    before = target.read_bytes()
    source.write_text("epoch,loss\n0,low\n")
    with pytest.raises(InputError, match="expected numbers under loss, got 'low'"):
        plot_curves(source, target, "t")
    assert target.read_bytes() == before


def test_a_single_column_is_no_curve(tmp_path):
    (tmp_path / "t.csv").write_text("epoch\n1\n")
    with pytest.raises(InputError, match="expected at least two columns"):
        read_curves(tmp_path / "t.csv")


def test_drawing_does_not_load_pyplot(tmp_path):
    import subprocess

    (tmp_path / "t.csv").write_text(LOSSES)
    code = (
        "import sys; from pathlib import Path; from glomtile.plotting import plot_curves;"
        "plot_curves(Path('t.csv'), Path('t.png'), 't'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)


def share(image, colour):
    return (image == np.array(colour, np.uint8)).all(axis=-1).mean()


def test_bars_are_as_tall_as_their_counts(tmp_path):
    image = read_image(draw_counts(tmp_path / "a.png", "Set", {"train": 300, "valid": 150, "test": 75}, None))
    assert share(image, BLUE) / share(image, ORANGE) == pytest.approx(2, rel=0.03)
    assert share(image, ORANGE) / share(image, GREEN) == pytest.approx(2, rel=0.05)


def test_counts_of_nothing_and_of_tiles_are_drawn(tmp_path):
    draw_counts(tmp_path / "a.png", "Set", {"train": 0}, None)
    plain = read_image(draw_counts(tmp_path / "b.png", "Set", {"train": 5}, None))
    tiled = read_image(draw_counts(tmp_path / "c.png", "Set", {"train": 5}, {"train": 1}))
    assert (plain != tiled).any()


def test_shares_are_drawn_for_every_class(tmp_path):
    shares = {"a": {"train": 0.1, "test": 0.0}, "costs $5_a$": {"train": 0.2, "test": 0.3}}
    one = draw_class_shares(tmp_path / "a.png", "Set", {"a": shares["a"]}, {"a": shares["a"]}, "images")
    two = draw_class_shares(tmp_path / "b.png", "Set", shares, shares, "images")
    assert read_image(two).shape[0] > read_image(one).shape[0]
    assert share(read_image(two), GREEN) > 0


def test_sizes_of_one_object_and_of_many_are_drawn(tmp_path):
    areas = np.random.default_rng(0).lognormal(8, 2, 500).tolist()
    for sizes in ({"a": ([7.0], [])}, {"a": ([], [0.01])}, {"a": (areas, areas[:9]), "b": ([], [])}):
        image = read_image(draw_sizes(tmp_path / "a.png", "Set", sizes, "µm²"))
        assert (image != 255).any(axis=-1).mean() > 0.02


def test_images_of_glass_alone_are_left_out(tmp_path):
    tissue, glass = Stain((200, 20, 90), 110, 0.9, 0.2), Stain((240, 240, 240), 240, 0.01, 0.99)
    image = read_image(draw_stains(tmp_path / "a.png", "Set", {"train": [tissue, glass]}, "tiles"))
    near = np.abs(image.astype(int) - (200, 20, 90)).max(axis=-1) < 30
    assert near.any(), "a point has its tissue's colour"
    draw_stains(tmp_path / "b.png", "Set", {"train": [glass], "test": []}, "tiles")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(mpl.rcParams)
    draw_counts(tmp_path / "a.png", "Set", {"train": 1}, None)
    assert dict(mpl.rcParams) == before


# --- SVG of the report ---


@settings(max_examples=20)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=9))
def test_curves_are_drawn_wherever_a_value_is_finite(values):
    svg = curves_svg(Curves("epoch", tuple(map(float, range(len(values)))), {"loss": tuple(values)}))
    assert (svg is None) == (not any(map(math.isfinite, values)))
    if svg is not None:
        defined = [value for value in values if math.isfinite(value)]
        assert f"loss (last {defined[-1]:.4f})" in svg


def test_a_point_without_neighbours_is_drawn_as_a_dot():
    nan = math.nan
    joined = curves_svg(Curves("epoch", (0, 1, 2), {"loss": (1.0, 0.5, 0.3)}))
    alone = curves_svg(Curves("epoch", (0, 1, 2), {"loss": (1.0, nan, 0.3)}))
    assert alone.count("<use") > joined.count("<use")


@pytest.mark.parametrize("truth", [[], [10.0], [0.1, 4e6]])
@pytest.mark.parametrize("prediction", [[20.0], [3.0] * 30])
def test_areas_are_drawn_with_a_legend_where_the_truth_has_objects(truth, prediction):
    svg = area_histogram_svg(truth, prediction, "px")
    assert (">truth<" in svg) == bool(truth)
    assert svg.startswith("<svg")


def test_images_of_equal_counts_share_a_circle():
    assert len(count_scatter_svg([(2, 2), (2, 2)])) == len(count_scatter_svg([(2, 2)]))


def test_an_svg_takes_colours_and_fonts_from_the_page_and_is_the_same_each_time():
    bins = [(0.5, 0.5, 10), (0.9, 0.6, 10)]
    svg = calibration_svg(bins)
    assert svg == calibration_svg(bins)
    assert svg.startswith("<svg")
    for word in ("currentColor", "var(--quiet)", "var(--accent)"):
        assert word in svg
    for word in ("<style", "font-family", "<metadata", "DejaVu", "#21"):
        assert word not in svg


def test_names_stay_text_in_an_svg():
    name = "</style><script>alert(1)</script> $x_{ 腎臓"
    svg = curves_svg(Curves("epoch", (0, 1), {name: (1.0, 2.0)}))
    assert "<script" not in svg
    assert "腎臓" in svg
