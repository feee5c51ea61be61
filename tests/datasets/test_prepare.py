from __future__ import annotations

import errno
import hashlib
import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tests.fakes import RecordingProgress

from glomtile.datasets import prepare as cuttiles
from glomtile.datasets.pairing import pair
from glomtile.datasets.prepare import prepare, tile_boxes
from glomtile.datasets.splitting import SPLITS
from glomtile.errors import ArgumentError, InputError, StorageError, UsageError
from glomtile.io import atomic as workspace
from glomtile.io.images import image_mpp, read_image, write_png
from glomtile.io.masks import read_mask, write_mask
from glomtile.palette import GLOMERULI, Palette


def paint(folder, count=8, size_px=(70, 90), mpp=None, seed=0):
    """Pictures of noise whose red channel tells the place and whose masks hold one disc-like square."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        image = rng.integers(0, 255, (*size_px, 3), dtype=np.uint8)
        labels = np.zeros(size_px, np.uint8)
        labels[3:20, 3:20] = 1
        write_png(folder / "images" / f"k{number}.png", image, mpp)
        write_mask(folder / "masks" / f"k{number}.png", labels, GLOMERULI)
    return folder / "images", folder / "masks"


def tiles_of(dataset, stem):
    return sorted(path for path in dataset.glob(f"*/images/{stem}_*.png"))


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_tiles_put_together_are_the_image_unstretched(tmp_path):
    """Fault of reference §1: there images were stretched to a multiple of the tile."""
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=32)
    for stem in ("k0", "k1", "k2"):
        [home] = {path.parent for path in tiles_of(tmp_path / "set", stem)}
        rows = [
            np.hstack([read_image(home / f"{stem}_{row}x{column}.png") for column in range(3)])
            for row in range(3)
        ]
        assert np.array_equal(np.vstack(rows)[:70, :90], read_image(images / f"{stem}.png"))


def test_the_last_tiles_mirror_tissue_and_labels_alike(tmp_path):
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    image, labels = read_image(images / "k0.png"), read_mask(masks / "k0.png", GLOMERULI)
    beyond = ((0, 128 - 70), (0, 128 - 90))
    [corner] = (tmp_path / "set").glob("*/images/k0_1x1.png")
    assert np.array_equal(read_image(corner), np.pad(image, (*beyond, (0, 0)), "reflect")[64:, 64:])
    mask = read_mask(corner.parent.parent / "masks" / corner.name, GLOMERULI)
    assert np.array_equal(mask, np.pad(labels, beyond, "reflect")[64:, 64:])


def test_no_image_lends_tiles_to_two_splits(tmp_path):
    """Fault of reference §1 and §5: there tiles, not images, were sorted into train, valid and test."""
    images, masks = paint(tmp_path, 16)
    result = prepare(images, masks, tmp_path / "set", tile_px=32)
    homes = {(path.stem.rsplit("_", 1)[0], path.parts[-3]) for path in (tmp_path / "set").glob("*/images/*")}
    assert len(homes) == 16
    assert Counter(split for _, split in homes) == result.images
    assert all(result.images[split] >= 1 for split in SPLITS)
    assert result.tiles == {split: 9 * result.images[split] for split in SPLITS}
    in_order = [split for _, split in sorted(homes, key=lambda home: int(home[0][1:]))]
    assert sum(a != b for a, b in pairwise(in_order)) == 2, "neighbours stay together"


def test_groups_stay_together_and_a_fixed_split_holds(tmp_path):
    images, masks = paint(tmp_path, 9)
    table = tmp_path / "groups.csv"
    lines = [f"k{number},slide{number % 3},{'test' if number == 1 else ''}" for number in range(9)]
    table.write_text("\n".join(["stem,group,split", *lines]))
    prepare(images, masks, tmp_path / "set", groups=table, split=(0.4, 0.3, 0.3), tile_px=64)
    sources = json.loads((tmp_path / "set" / "prepare.json").read_text())["sources"]
    assert {source["split"] for source in sources if source["group"] == "slide1"} == {"test"}
    assert len({(source["group"], source["split"]) for source in sources}) == 3


def test_images_whose_group_is_out_are_in_no_split_and_on_record(tmp_path):
    images, masks = paint(tmp_path, 6)
    table = tmp_path / "groups.csv"
    table.write_text(
        "\n".join(["stem,group,split", *(f"k{i},g{i},{'out' if i == 4 else ''}" for i in range(6))])
    )
    result = prepare(images, masks, tmp_path / "set", groups=table, split=(0.4, 0.3, 0.3), tile_px=64)
    record = json.loads((tmp_path / "set" / "prepare.json").read_text())
    assert sum(result.images.values()) == len(record["sources"]) == 5
    assert record["settings"]["images_left_out"] == ["k4"]
    assert not list((tmp_path / "set").rglob("k4_*"))


def test_a_table_that_leaves_everything_out_is_refused(tmp_path):
    images, masks = paint(tmp_path, 2)
    table = tmp_path / "groups.csv"
    table.write_text("stem,group,split\nk0,a,out\nk1,a,out\n")
    with pytest.raises(InputError, match="leaves all of them out"):
        prepare(images, masks, tmp_path / "set", groups=table, tile_px=64)


def test_the_wanted_share_of_empty_tiles_is_kept(tmp_path):
    images, masks = paint(tmp_path, 10)  # 9 tiles of 32 px each: 1 with a class, 8 empty
    listening = RecordingProgress()
    for share in (0.0, 0.25, 1.0):
        out = tmp_path / f"set{share}"
        result = prepare(images, masks, out, tile_px=32, keep_empty=share, progress=listening)
        kept = sum(not read_mask(path, GLOMERULI).any() for path in out.glob("*/masks/*.png"))
        assert kept == round(80 * share)
        assert result.left_out == 80 - kept
        assert sum(result.tiles.values()) == 10 + kept
    assert "empty tiles were left out" in listening.notes[0]


def test_a_split_of_empty_tiles_alone_is_refused_when_none_are_kept(tmp_path):
    images, masks = paint(tmp_path, 3)
    for number in range(3):
        write_mask(masks / f"k{number}.png", np.zeros((70, 90), np.uint8), GLOMERULI)
    with pytest.raises(InputError, match="raise keep_empty"):
        prepare(images, masks, tmp_path / "set", tile_px=32, keep_empty=0.0)
    assert not (tmp_path / "set").exists()


def test_the_same_call_makes_the_same_bytes_and_another_seed_others(tmp_path):
    images, masks = paint(tmp_path, 8)
    for name, seed in (("a", 1), ("b", 1), ("c", 3)):
        prepare(images, masks, tmp_path / name, tile_px=32, keep_empty=0.5, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a").keys() != digests(tmp_path / "c").keys()


def test_an_older_dataset_is_moved_aside_whole(tmp_path):
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    before = digests(tmp_path / "set")
    listening = RecordingProgress()
    result = prepare(images, masks, tmp_path / "set", tile_px=32, progress=listening)
    [aside] = result.moved_aside
    assert digests(aside) == before
    assert listening.notes == [f"previous set moved to {aside.name}"]
    assert len(list((tmp_path / "set").glob("*/images/*"))) == 27


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    images, masks = paint(tmp_path, 3)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.docx").touch()
    with pytest.raises(UsageError, match=r"got other files \(choose another folder\)"):
        prepare(images, masks, theirs)
    with pytest.raises(UsageError, match="got other files"):
        prepare(images, masks, tmp_path / "set", mini_test=theirs)
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        prepare(images, masks, theirs / "thesis.docx")
    assert [path.name for path in theirs.iterdir()] == ["thesis.docx"]
    assert not (tmp_path / "set").exists()


def test_the_mini_test_holds_the_whole_test_images_and_masks(tmp_path):
    images, masks = paint(tmp_path, 8, mpp=0.5)
    mini = tmp_path / "mini"
    for _ in range(2):
        result = prepare(images, masks, tmp_path / "set", tile_px=32, mini_test=mini)
    found = pair(mini / "images", mini / "masks")
    tested = {path.stem.rsplit("_", 1)[0] for path in (tmp_path / "set" / "test" / "images").iterdir()}
    assert {one.stem for one in found} == tested
    for one in found:
        assert one.image.read_bytes() == (images / one.image.name).read_bytes()
        assert np.array_equal(read_mask(one.mask, GLOMERULI), read_mask(masks / one.mask.name, GLOMERULI))
    assert result.paths == [tmp_path / "set", mini]
    assert len(result.moved_aside) == 2


@pytest.mark.parametrize("mini", ["set", "set/mini", ".", "images/../set"])
def test_a_mini_test_and_a_dataset_do_not_lie_in_each_other(tmp_path, mini):
    """Of one folder for both, the dataset just made was moved aside for the mini test."""
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    before = digests(tmp_path)
    with pytest.raises(
        UsageError, match=r"^mini_test: expected a folder apart from the dataset's, .*, got '"
    ):
        prepare(images, masks, tmp_path / "set", tile_px=32, mini_test=tmp_path / mini)
    assert digests(tmp_path) == before


def test_what_keeps_the_mini_test_from_being_written_leaves_the_older_dataset(tmp_path, monkeypatch):
    """It was written after the new dataset had taken the older one's place."""
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    before = digests(tmp_path)
    with pytest.raises(StorageError, match=r"mini: .*a part of the path is a file"):
        prepare(images, masks, tmp_path / "set", tile_px=32, mini_test=images / "k0.png" / "mini")
    assert digests(tmp_path) == before

    def full(path, data):
        raise OSError(errno.ENOSPC, "no space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(cuttiles, "write_json", full)
        with pytest.raises(StorageError, match=r"mini: .*the disk is full"):
            prepare(images, masks, tmp_path / "set", tile_px=32, mini_test=tmp_path / "mini")
    assert digests(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks", "set"]


def test_an_older_dataset_returns_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    images, masks = paint(tmp_path, 3)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    before = digests(tmp_path)

    def broken(folder):
        raise OSError(errno.EIO, "input/output error", str(folder))

    monkeypatch.setattr(workspace, "_sync", broken)
    listening = RecordingProgress()
    with pytest.raises(StorageError, match="input/output error"):
        prepare(images, masks, tmp_path / "set", tile_px=32, progress=listening)
    assert digests(tmp_path) == before
    assert not [note for note in listening.notes if "moved to" in note]


def test_tiles_keep_the_scale_of_their_image(tmp_path):
    images, masks = paint(tmp_path, 3, mpp=0.25)
    prepare(images, masks, tmp_path / "set", tile_px=64)
    assert all(image_mpp(path) == pytest.approx(0.25) for path in (tmp_path / "set").glob("*/*/*.png"))


def test_the_record_tells_where_every_tile_came_from(tmp_path):
    images, masks = paint(tmp_path, 4)
    prepare(images, masks, tmp_path / "set", tile_px=32, seed=9)
    record = json.loads((tmp_path / "set" / "prepare.json").read_text())
    assert (record["images_dir"], record["masks_dir"]) == ("../images", "../masks")
    assert record["settings"]["seed"] == 9
    assert record["settings"]["classes"][1] == {"number": 1, "name": "glomerulus", "rgb": [255, 0, 0]}
    source = record["sources"][2]
    assert source["image"] == "../images/k2.png"
    assert source["image_sha256"] == hashlib.sha256((images / "k2.png").read_bytes()).hexdigest()
    assert (source["size_px"], source["tiles"], source["classes"]) == ([70, 90], 9, [0, 1])
    assert str(tmp_path) not in (tmp_path / "set" / "prepare.json").read_text()


def test_all_unusable_masks_are_named_at_once_and_nothing_is_written(tmp_path):
    images, masks = paint(tmp_path, 5)
    for number in (1, 3):
        write_png(masks / f"k{number}.png", np.full((70, 90, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"masks: expected 5 usable files, got 2 that are not:\n") as caught:
        prepare(images, masks, tmp_path / "set")
    reasons = str(caught.value).splitlines()[1:]
    assert [re.findall(r"k\d\.png|\(9,9,9\) on 100 %", line) for line in reasons] == [
        [f"k{number}.png", "(9,9,9) on 100 %"] for number in (1, 3)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"]


def test_of_many_unusable_masks_ten_are_explained(tmp_path):
    images, masks = paint(tmp_path, 13)
    for number in range(12):
        write_png(masks / f"k{number}.png", np.full((70, 90, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"got 12 that are not") as caught:
        prepare(images, masks, tmp_path / "set")
    assert len(str(caught.value).splitlines()) == 12
    assert str(caught.value).endswith("and 2 more")


def test_a_truncated_image_leaves_no_dataset(tmp_path):
    images, masks = paint(tmp_path, 5)
    whole = (images / "k2.png").read_bytes()
    (images / "k2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"k2\.png: expected a whole image"):
        prepare(images, masks, tmp_path / "set", tile_px=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"]


def test_a_class_no_training_image_holds_is_told(tmp_path):
    images, masks = paint(tmp_path, 4)
    palette = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["b", "g", "sclerosed"])
    listening = RecordingProgress()
    prepare(images, masks, tmp_path / "set", palette=palette, progress=listening)
    assert listening.warnings == ["no training image holds class 2, sclerosed"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile_px": 8},
        {"split": (0.5, 0.1, 0.1)},
        {"keep_empty": 1.5},
        {"border": "stretch"},
        {"tolerance": 300},
        {"mini_test": "mini", "split": (0.5, 0.5, 0.0)},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    images, masks = paint(tmp_path, 4)
    with pytest.raises(ArgumentError) as told:
        prepare(images, masks, tmp_path / "set", **wrong)
    assert told.value.where == next(iter(wrong))
    assert not (tmp_path / "set").exists()


@pytest.mark.shared
def test_the_real_images_are_prepared(shared_data, tmp_path):
    real = shared_data / "glomeruli"
    result = prepare(real / "images", real / "masks", tmp_path / "set", mini_test=tmp_path / "mini")
    assert sum(result.images.values()) == 16
    assert sum(result.tiles.values()) == 64
    assert len(pair(tmp_path / "mini" / "images", tmp_path / "mini" / "masks")) == result.images["test"]


def test_a_border_that_does_not_exist_is_refused():
    with pytest.raises(ArgumentError, match="border: expected one of reflect, even, got 'evn'"):
        next(tile_boxes((5, 5), 4, "evn"))


@pytest.mark.parametrize("size_px", [(1, 1), (64, 64), (65, 200), (70, 90), (5, 300)])
@pytest.mark.parametrize("border", ["reflect", "even"])
def test_tiles_cover_every_pixel_and_even_ones_stay_inside(size_px, border):
    covered = np.zeros(size_px, int)
    for box in tile_boxes(size_px, 64, border):
        assert (box.height, box.width) == (64, 64)
        assert box.top >= 0
        assert box.left >= 0
        if border == "even":
            assert box.bottom <= max(64, size_px[0])
            assert box.right <= max(64, size_px[1])
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert covered.min() >= 1
    assert border == "even" or covered.max() == 1
