from __future__ import annotations

import json

import numpy as np
import pytest
from tests.fakes import RecordingProgress

from glomtile.contact_sheets import draw_outlines
from glomtile.datasets.prepare import prepare
from glomtile.datasets.statistics import class_pixels, object_sizes, stain_of, stats
from glomtile.errors import InputError, UsageError
from glomtile.io.images import read_image, write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI, Palette
from glomtile.training.samples import draw_augmented

THREE = Palette.from_rgb_map({(0, 0, 255): 2, (0, 0, 0): 0, (255, 0, 0): 1}, ["background", "tuft", "scar"])


def paint(folder, count=6, mpp=None, palette=GLOMERULI, seed=0):
    """60 x 60 px, each with a square of 20 x 20 px in the middle and one of 5 x 5 px in a corner."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((60, 60), np.uint8)
    labels[20:40, 20:40] = 1
    labels[:5, :5] = 1
    for number in range(count):
        image = rng.integers(100, 200, (60, 60, 3), dtype=np.uint8)
        write_png(folder / "images" / f"k{number}.png", image, mpp)
        write_mask(folder / "masks" / f"k{number}.png", labels, palette)
    return folder / "images", folder / "masks"


def test_a_prepared_dataset_is_counted_drawn_and_its_objects_measured_whole(tmp_path):
    prepare(*paint(tmp_path, mpp=0.5), tmp_path / "Kidney", tile_px=32)
    result = stats(tmp_path / "Kidney", tmp_path / "out")
    names = [path.name for path in result.paths]
    assert names == [
        "Kidney_Statistics.png",
        "Kidney_Classes.png",
        "Kidney_Sizes.png",
        "Kidney_Stains.png",
        "Kidney_Samples_train.png",
        "Kidney_Samples_valid.png",
        "Kidney_Samples_test.png",
        "stats.json",
    ]
    assert all(path.is_file() for path in result.paths)
    assert json.loads(result.paths[-1].read_text()) == result.figures
    train = result.figures["splits"]["train"]
    assert result.figures["unit"] == "tiles"
    assert (train["files"], train["whole_images"], train["sizes_px"]) == (16, 4, {"32x32": 16})
    objects = train["classes"]["glomerulus"]["objects"]
    assert (objects["count"], objects["cut_by_border"]) == (8, 4), "tiles would have cut each in four"
    assert objects["area_px"]["median"] == 400
    assert objects["area_um2"]["median"] == pytest.approx(100, rel=1e-3)


def test_a_reference_layout_is_counted_without_a_record(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        paint(tmp_path / "Set" / split, count, seed=count)
    result = stats(tmp_path / "Set")
    assert result.paths[0] == tmp_path / "Set_Statistics" / "Set_Statistics.png"
    assert {name: split["files"] for name, split in result.figures["splits"].items()} == {
        "train": 3,
        "test": 2,
    }
    figures = result.figures["splits"]["test"]["classes"]["glomerulus"]
    assert figures["share"] == pytest.approx(425 / 3600)
    assert figures["objects"]["area_um2"] is None
    assert result.figures["unit"] == "images"


def test_a_config_names_the_dataset_and_its_classes(tmp_path):
    for split in ("train", "valid"):
        paint(tmp_path / "dataset" / "Name" / split, 2, palette=THREE, seed=len(split))
    config = tmp_path / "project" / "a.config"
    config.parent.mkdir()
    lines = ["[model]", 'model = "TensorFlowFlexUNet"', "num_classes = 3", "[mask]"]
    lines += ["rgb_map = {(0,0,255):2,(0,0,0):0,(255,0,0):1}"]
    for split in ("train", "valid"):
        lines += [f"[{split}]", *(f'{k}_dir = "../dataset/Name/{split}/{k}/"' for k in ("images", "masks"))]
    config.write_text("\n".join(lines))
    progress = RecordingProgress()
    result = stats(config, progress=progress)
    assert result.paths[0] == tmp_path / "project" / "Name_Statistics" / "Name_Statistics.png"
    assert list(result.figures["splits"]) == ["train", "valid"]
    assert [found["rgb"] for found in result.figures["classes"]] == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    assert any("class 2" in text and "does not occur in train, valid" in text for text in progress.warnings)


def test_an_image_in_two_splits_is_warned_of(tmp_path):
    for split in ("train", "test"):
        paint(tmp_path / "Set" / split, 2, seed=0)
    [warning] = stats(tmp_path / "Set").figures["warnings"]
    assert warning.startswith("2 images are in more than one split, as train/k0 and test/k0")


def test_a_folder_without_splits_is_refused(tmp_path):
    paint(tmp_path)
    with pytest.raises(InputError, match="run prepare first"):
        stats(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"]


def test_an_empty_share_of_a_prepared_dataset_is_no_mistake(tmp_path):
    prepare(*paint(tmp_path), tmp_path / "Set", tile_px=32, split=(0.5, 0.5, 0.0))
    assert list(stats(tmp_path / "Set").figures["splits"]) == ["train", "valid"]


def test_the_augmented_sheet_needs_a_config(tmp_path):
    prepare(*paint(tmp_path), tmp_path / "Set", tile_px=32)
    with pytest.raises(UsageError, match="expected a config, got the folder"):
        draw_augmented(tmp_path / "Set")


def test_a_target_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match="nowhere: expected a dataset's folder or a config, the path does not"
    ):
        stats(tmp_path / "nowhere")


def test_the_augmented_sheet_shows_what_the_network_sees(tmp_path):
    prepare(*paint(tmp_path), tmp_path / "Set", tile_px=32)
    sheets = {}
    for enabled in ("true", "false"):
        config = tmp_path / f"{enabled}.toml"
        config.write_text(
            f"""
            [model]
            model = "TensorFlowFlexUNet"
            image_width = 32
            image_height = 32
            num_classes = 2
            [augmentor]
            enabled = {enabled}
            [train]
            images_dir = "Set/train/images"
            masks_dir = "Set/train/masks"
            """
        )
        progress = RecordingProgress()
        path = draw_augmented(config, tmp_path / enabled, progress=progress)
        assert path == tmp_path / enabled / "Set_Augmented.png"
        sheets[enabled] = read_image(path)
        assert bool(progress.warnings) == (enabled == "false")
    assert sheets["true"].shape == sheets["false"].shape
    assert (sheets["true"] != sheets["false"]).mean() > 0.1


def test_an_outline_runs_along_the_class_in_its_colour():
    image, labels = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 2
    sheet = draw_outlines(image, labels, THREE, cell_px=128)
    assert sheet.shape == (128, 128, 3)
    assert sheet[64, 32].tolist() == [0, 0, 255], "on the border"
    assert sheet[64, 64].tolist() == [90, 90, 90], "tissue stays as it is"
    assert (image == 90).all()


@pytest.mark.shared
@pytest.mark.slow
def test_the_real_images_are_described(shared_data, tmp_path):
    real = shared_data / "glomeruli"
    prepare(real / "images", real / "masks", tmp_path / "Glomeruli")
    figures = stats(tmp_path / "Glomeruli").figures
    objects = [split["classes"]["glomerulus"]["objects"]["count"] for split in figures["splits"].values()]
    assert sum(objects) == 18, "17 found and 1 missed by the reference"


def test_objects_are_counted_by_class_and_border():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:8, 5:9] = 1
    labels[0:2, 10:12] = 1
    labels[12:15, 12:15] = 2
    labels[15, 15] = 2  # touches at a corner: one object
    found = [(size.number, size.area_px, size.cut) for size in object_sizes(labels, 3)]
    assert sorted(found) == [(1, 4, True), (1, 12, False), (2, 10, False)]
    assert class_pixels(labels, 4) == [400 - 26, 16, 10, 0]


def test_glass_is_no_tissue():
    image = np.full((40, 40, 3), 250, np.uint8)
    image[:, :10] = (200, 100, 150)
    stain = stain_of(image)
    assert stain.rgb == (200, 100, 150)
    assert stain.glass == pytest.approx(0.75)
    assert stain.brightness == pytest.approx(150)
    assert stain.saturation == pytest.approx(0.5)


def test_an_image_of_glass_or_black_has_a_colour_too():
    assert stain_of(np.full((3, 3, 3), 255, np.uint8)).rgb == (255, 255, 255)
    assert stain_of(np.zeros((1, 1, 3), np.uint8)).saturation == 1.0
