"""What a config says of its images is what their samples show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomtile.config.load import make_config
from glomtile.errors import ConfigError
from glomtile.io.images import write_png
from glomtile.training.samples import image_weights, training_source


def weighted(patterns: dict[str, float], **told: object) -> dict[str, dict[str, object]]:
    return {"dataset": {"sampling": "crops", "image_weights": patterns, **told}}


def test_the_first_pattern_that_fits_a_name_gives_its_weight() -> None:
    config = make_config(weighted({"painted1": 2.0, "painted*": 0.25}))
    stems = ["painted0", "painted1", "10003", "Painted2"]
    assert image_weights(config, stems) == [0.25, 2.0, 1.0, 1.0]
    assert image_weights(make_config({}), stems) is None


def test_weights_that_leave_nothing_are_refused() -> None:
    config = make_config(weighted({"*": 0.0}))
    with pytest.raises(ConfigError, match=r"\[dataset\] image_weights.*above 0, got none among 2"):
        image_weights(config, ["a", "b"])


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "often"])
def test_a_weight_is_a_number_from_0_on(weight: object) -> None:
    with pytest.raises(ConfigError, match="image_weights"):
        make_config(weighted({"a*": weight}))  # type: ignore[dict-item]


def test_crops_come_from_the_images_as_often_as_the_config_says(tmp_path: Path) -> None:
    for number, stem in enumerate(("real", "painted1", "painted2")):
        write_png(tmp_path / "images" / f"{stem}.png", np.full((48, 48, 3), 40 * (number + 1), np.uint8))
        write_png(tmp_path / "masks" / f"{stem}.png", np.zeros((48, 48, 3), np.uint8))
    told = weighted({"painted*": 0.25}, samples_per_epoch=60)
    told["train"] = {"images_dir": str(tmp_path / "images"), "masks_dir": str(tmp_path / "masks")}
    told["model"] = {"image_width": 32, "image_height": 32}
    source = training_source(make_config(told, tmp_path))
    seen = [int(source.sample(0, index)[0][0, 0, 0]) for index in range(len(source))]
    assert [seen.count(colour) for colour in (40, 80, 120)] == [40, 10, 10]
