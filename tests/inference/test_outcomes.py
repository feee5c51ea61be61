"""What commands tell programs of a folder of results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glomtile.evaluation.metrics import score_image
from glomtile.evaluation.score import write_scores
from glomtile.inference.records import scores_outcome
from glomtile.palette import Palette

THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])


def test_the_worst_images_are_told_with_their_worst_class(tmp_path: Path) -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:20, :20], truth[20:, 20:] = 1, 2
    no_vessel, no_tuft, both = truth.copy(), truth.copy(), truth.copy()
    no_vessel[22:, 20:], no_tuft[5:20, :20], both[:, :2] = 0, 0, 0
    planes = {"a": no_vessel, "b": no_tuft, "c": both, "d": truth}
    write_scores(tmp_path, [(stem, score_image(plane, truth, 3)) for stem, plane in planes.items()], THREE)
    worst = scores_outcome(tmp_path)["worst"]
    assert [(one["image"], one["class"]) for one in worst] == [("a", "vessel"), ("b", "tuft"), ("c", "tuft")]
    assert [one["dice"] for one in worst] == sorted(one["dice"] for one in worst)
