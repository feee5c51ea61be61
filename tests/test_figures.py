from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from glomtile.errors import InputError
from glomtile.io.images import read_image
from glomtile.plotting import plot_curves, read_curves

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
    picture = read_image(plot_curves(source, tmp_path / "train_losses.png", "loss $x_{"))
    assert picture.shape[1] > 400
    assert len(np.unique(picture)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train_losses.csv", "train_losses.png"]


def test_the_plot_follows_the_table(tmp_path):
    source = tmp_path / "t.csv"
    pictures = []
    for rows in (LOSSES, LOSSES.replace("0.2500", "0.9")):
        source.write_text(rows)
        pictures.append(read_image(plot_curves(source, tmp_path / "t.png", "t")))
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()


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
