"""infer and tiled-infer on folders of images, with a network whose answer one can see in the picture."""

from __future__ import annotations

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from tests.fakes import RecordingProgress

from glomtile.config.load import make_config
from glomtile.errors import ConfigError, InputError, ModelError, StorageError, UsageError
from glomtile.evaluation import evaluate as module
from glomtile.evaluation.evaluate import infer, tiled_infer
from glomtile.io.images import write_png
from glomtile.models import folder as modelfolder
from glomtile.networks.registry import Geometry

BOTH = pytest.mark.parametrize("verb", [infer, tiled_infer], ids=["infer", "tiled-infer"])


@keras.saving.register_keras_serializable(package="glomtile-tests")
class Seen(keras.layers.Layer):
    """p(class 1) = red / 255; keeps the shapes it was compiled for."""

    shapes: list = []  # noqa: RUF012

    def call(self, image):
        Seen.shapes.append(tuple(image.shape))
        red = image[..., :1] / 255
        return keras.ops.concatenate([1 - red, red], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


@pytest.fixture
def loaded(monkeypatch):
    """The model folder: where it was looked for, and what it holds."""
    image = keras.Input((None, None, 3))
    found = SimpleNamespace(
        model=keras.Model(image, Seen()(image)),
        card=SimpleNamespace(mpp=None, color_order="RGB"),
        geometry=Geometry(stride_px=16, context_px=0),
        folders=[],
    )

    def load(folder):
        found.folders.append(folder)
        return found

    monkeypatch.setattr(modelfolder, "load_model_folder", load)
    Seen.shapes.clear()
    return found


def config(base, **sections):
    settings = {
        "model": {"image_width": 64, "image_height": 64, "num_classes": 2},
        "train": {"model_dir": "./models"},
        "infer": {"images_dir": "./images", "output_dir": "./out"},
        "tiledinfer": {"images_dir": "./images", "output_dir": "./out", "split_size": 64, "overlapping": 16},
        "mask": {"rgb_map": {(255, 0, 0): 1, (0, 0, 0): 0}},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return make_config(settings, base)


def square(height=150, width=100, colour=(255, 0, 0)):
    image = np.full((height, width, 3), 30, np.uint8)
    image[40:80, 20:60] = colour
    return image


def inside(labels):
    """Of `square`: whether class 1 is where the square is, up to its border."""
    truth = np.zeros(labels.shape, bool)
    truth[40:80, 20:60] = True
    return ((labels == 1) == truth).mean() > 0.98


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a", "b", "c10", "c9"):
        write_png(folder / f"{name}.png", square())
    return folder


@BOTH
def test_every_image_gets_a_palette_png_of_its_own_size(verb, tmp_path, images, loaded):
    Image.fromarray(square(90, 200)).save(images / "wide.jpg", quality=95)
    result = verb(config(tmp_path))
    assert [path.name for path in result.done] == ["a.png", "b.png", "c9.png", "c10.png", "wide.png"]
    assert result.failed == ()
    assert loaded.folders == [tmp_path / "models" / "best"]
    for path in result.done:
        with Image.open(path) as mask:
            assert mask.mode == "P"
            assert mask.size == ((200, 90) if path.stem == "wide" else (100, 150))
            assert mask.getpalette()[:6] == [0, 0, 0, 255, 0, 0]
            assert inside(np.array(mask))


def test_infer_shows_the_network_the_whole_image_at_its_input_size(tmp_path, images, loaded):
    infer(config(tmp_path))
    assert Seen.shapes[-1] == (1, 64, 64, 3)


def test_reference_fault_6_2_tiled_infer_shows_every_window_at_one_scale_and_size(tmp_path, images, loaded):
    tiled_infer(config(tmp_path))
    assert Seen.shapes[-1] == (1, 96, 96, 3)
    assert len({shape for shape in Seen.shapes if shape[1] is not None}) == 1


@BOTH
def test_reference_fault_6_11_color_order_is_respected(verb, tmp_path, images, loaded):
    write_png(images / "blue.png", square(colour=(0, 0, 255)))
    progress = RecordingProgress()
    warnings = progress.warnings
    verb(config(tmp_path, image={"color_order": "BGR"}), progress)
    assert inside(np.array(Image.open(tmp_path / "out" / "blue.png")))
    assert not np.array(Image.open(tmp_path / "out" / "a.png")).any()
    assert len(warnings) == 1
    assert "trained with color_order RGB" in warnings[0]
    loaded.card.color_order = "BGR"
    verb(config(tmp_path, image={"color_order": "BGR"}), progress)
    assert len(warnings) == 1


@BOTH
def test_reference_fault_6_5_nothing_in_the_output_folder_is_deleted(verb, tmp_path, images, loaded):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "old.png").write_bytes(b"an older mask")
    (out / "a.png").write_bytes(b"an older mask of a")
    verb(config(tmp_path))
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "old.png").read_bytes() == b"an older mask"
    assert inside(np.array(Image.open(out / "a.png")))
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png", "b.png", "c10.png", "c9.png", "notes.txt", "old.png"
    ]  # fmt: skip


@BOTH
def test_an_image_that_fails_is_reported_and_the_others_are_done(verb, tmp_path, images, loaded):
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    (images / "bad.tif").write_text("no picture")
    result = verb(config(tmp_path))
    assert [path.name for path in result.done] == ["a.png", "c9.png", "c10.png"]
    assert [path.name for path, _ in result.failed] == ["b.png", "bad.tif"]
    assert all("expected" in reason and "got" in reason for _, reason in result.failed)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c10.png", "c9.png"]


@BOTH
def test_two_images_of_one_name_do_not_overwrite_each_others_mask(verb, tmp_path, images, loaded):
    Image.fromarray(np.full((50, 50, 3), 255, np.uint8)).save(images / "a.tif")
    result = verb(config(tmp_path))
    assert [path.name for path, _ in result.failed] == ["a.tif"]
    assert "got the mask's name of a.png" in result.failed[0][1]
    assert inside(np.array(Image.open(tmp_path / "out" / "a.png")))


@BOTH
def test_a_full_disk_ends_the_work_and_keeps_what_is_finished(verb, tmp_path, images, loaded, monkeypatch):
    write = module.write_mask

    def fill_up(path, *rest):
        if path.stem == "c9":
            raise StorageError(path, "expected space on the disk, got: the disk is full")
        write(path, *rest)

    monkeypatch.setattr(module, "write_mask", fill_up)
    with pytest.raises(StorageError, match="disk is full"):
        verb(config(tmp_path))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


@BOTH
def test_masks_may_not_land_on_the_images(verb, tmp_path, images, loaded):
    before = (images / "a.png").read_bytes()
    same = {"output_dir": "./out/../images"}
    with pytest.raises(ConfigError, match="expected another folder than that of the images"):
        verb(config(tmp_path, infer=same, tiledinfer=same))
    assert (images / "a.png").read_bytes() == before


@BOTH
@pytest.mark.parametrize("kind", ["masks", "pictures"])
def test_masks_may_not_land_on_what_the_dataset_was_prepared_from(verb, tmp_path, images, loaded, kind):
    record = {"images_dir": "../study/pictures", "masks_dir": "../study/masks", "sources": []}
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/prepare.json").write_text(json.dumps(record))
    there = {"output_dir": f"study/{kind}"}
    with pytest.raises(ConfigError, match=r"than that of what \[test\] was prepared from, got .*" + kind):
        verb(config(tmp_path, infer=there, tiledinfer=there, test={"images_dir": "dataset/test/images"}))
    assert not (tmp_path / "study").exists()


@BOTH
def test_a_folder_that_is_not_given_or_not_there_is_named(verb, tmp_path, loaded):
    with pytest.raises(InputError, match="images: expected a folder of images"):
        verb(config(tmp_path))
    bare = make_config(
        {"model": {"num_classes": 2}, "mask": {"rgb_map": {(0, 0, 0): 0, (1, 1, 1): 1}}}, tmp_path
    )
    with pytest.raises(ConfigError, match="images_dir"):
        verb(bare)


@BOTH
def test_a_network_of_other_classes_is_refused_before_anything_is_written(verb, tmp_path, images, loaded):
    three = {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2}}
    with pytest.raises(ModelError, match="network of the 3 classes of rgb_map, got one of 2"):
        verb(config(tmp_path, mask=three, model={"num_classes": 3}))
    assert not (tmp_path / "out").exists()


def test_tiled_infer_brings_images_to_the_networks_scale(tmp_path, loaded):
    loaded.card.mpp = 1.0
    write_png(tmp_path / "images" / "tagged.png", square(300, 300), mpp=0.5)
    write_png(tmp_path / "images" / "untagged.png", square(300, 300))
    settings = config(tmp_path, tiledinfer={"overlapping": 0, "split_size": 512}, dataset={"image_mpp": 2.0})
    result = tiled_infer(settings)
    assert [path.name for path in result.done] == ["tagged.png", "untagged.png"]
    assert {(1, 160, 160, 3), (1, 512, 512, 3)} <= set(Seen.shapes)
    for path in result.done:
        labels = np.array(Image.open(path))
        assert labels.shape == (300, 300)
        assert inside(labels)


def test_images_of_unknown_scale_are_seen_as_they_are_with_one_warning(tmp_path, images, loaded):
    loaded.card.mpp = 0.5
    progress = RecordingProgress()
    assert len(tiled_infer(config(tmp_path), progress).done) == 4
    assert len(progress.warnings) == 1
    assert "images without a scale: 4; the network was trained at 0.5 µm per pixel" in progress.warnings[0]
    loaded.card.mpp = None
    tiled_infer(config(tmp_path), progress)
    assert len(progress.warnings) == 1


def test_margins_that_leave_nothing_end_the_work_as_a_usage_error(tmp_path, images, loaded):
    with pytest.raises(UsageError, match="more than twice the margin of 16 px"):
        tiled_infer(config(tmp_path, tiledinfer={"window": 32, "overlapping": 16}))


def test_tta_and_batches_change_nothing_for_a_network_that_looks_at_single_pixels(tmp_path, images, loaded):
    tiled_infer(config(tmp_path))
    plain = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tiled_infer(
        config(tmp_path, tiledinfer={"tta": "all", "batch_size": 3, "blend": "linear", "window": "auto"})
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == plain
