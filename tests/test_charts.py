import matplotlib as mpl
import numpy as np
import pytest

from glomtile.datasets.image_statistics import Stain
from glomtile.io.images import read_image
from glomtile.plotting import draw_class_shares, draw_counts, draw_sizes, draw_stains

BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)


def share(picture, colour):
    return (picture == np.array(colour, np.uint8)).all(axis=-1).mean()


def test_bars_are_as_tall_as_their_counts(tmp_path):
    picture = read_image(
        draw_counts(tmp_path / "a.png", "Set", {"train": 300, "valid": 150, "test": 75}, None)
    )
    assert share(picture, BLUE) / share(picture, ORANGE) == pytest.approx(2, rel=0.03)
    assert share(picture, ORANGE) / share(picture, GREEN) == pytest.approx(2, rel=0.05)


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
        picture = read_image(draw_sizes(tmp_path / "a.png", "Set", sizes, "µm²"))
        assert (picture != 255).any(axis=-1).mean() > 0.02


def test_pictures_of_glass_alone_are_no_stain(tmp_path):
    tissue, glass = Stain((200, 20, 90), 110, 0.9, 0.2), Stain((240, 240, 240), 240, 0.01, 0.99)
    picture = read_image(draw_stains(tmp_path / "a.png", "Set", {"train": [tissue, glass]}, "tiles"))
    near = np.abs(picture.astype(int) - (200, 20, 90)).max(axis=-1) < 30
    assert near.any(), "a point has its tissue's colour"
    draw_stains(tmp_path / "b.png", "Set", {"train": [glass], "test": []}, "tiles")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(mpl.rcParams)
    draw_counts(tmp_path / "a.png", "Set", {"train": 1}, None)
    assert dict(mpl.rcParams) == before
