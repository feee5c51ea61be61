from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image
from tests.fakes import RecordingProgress

from glomtile.config.load import make_config
from glomtile.datasets.pairing import changed_since_prepared, pair, prepared_groups, read_groups, whole_pairs
from glomtile.datasets.prepare import prepare
from glomtile.errors import InputError
from glomtile.palette import GLOMERULI
from glomtile.training.train import warn_of_changed_sources


def make(folder, images, masks=None, size_px=(6, 8)):
    for kind, names in (("images", images), ("masks", images if masks is None else masks)):
        (folder / kind).mkdir(exist_ok=True)
        for name in names:
            Image.fromarray(np.zeros((*size_px, 3), np.uint8)).save(folder / kind / name)
    return folder / "images", folder / "masks"


def test_images_and_masks_pair_by_name_not_by_position(tmp_path):
    """Fault of reference §6.1: there two unsorted lists were paired by position."""
    images, masks = make(tmp_path, ["b10.png", "b9.jpg", "a.tif"], ["a.png", "b9.bmp", "b10.png"])
    paired = pair(images, masks)
    assert [found.stem for found in paired] == ["a", "b9", "b10"]
    assert all(found.image.stem == found.mask.stem == found.stem for found in paired)


def test_as_many_masks_as_images_are_not_enough(tmp_path):
    """Fault of reference §6.1: there only the counts were compared."""
    images, masks = make(tmp_path, ["a.png", "b.png"], ["a.png", "c.png"])
    with pytest.raises(InputError, match=r"masks: expected a mask for every image .* got none for b\.png"):
        pair(images, masks)


def test_every_missing_partner_is_named_and_the_nearest_name_hinted(tmp_path):
    images, masks = make(tmp_path, ["s1.png", "s2.png", "s3.png"], ["s1.png", "s2_mask.png"])
    with pytest.raises(InputError, match=r"none for s2\.png, s3\.png \(.*s2_mask\.png"):
        pair(images, masks)


def test_a_mask_without_an_image_is_named(tmp_path):
    images, masks = make(tmp_path, ["a.png"], ["a.png", "b.png"])
    with pytest.raises(InputError, match=r"images: expected an image for every mask .*b\.png"):
        pair(images, masks)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_name_are_refused(tmp_path, kind):
    images, masks = make(tmp_path, ["a.png", "b.png"])
    Image.new("RGB", (8, 6)).save(tmp_path / kind / "a.jpg")
    with pytest.raises(InputError, match=rf"{kind}: expected every name once, got a\.jpg and a\.png"):
        pair(images, masks)


def test_a_mask_suffix_chooses_among_two_masks(tmp_path):
    images, masks = make(tmp_path, ["a.png"])
    np.savez(masks / "a.npz", np.zeros((6, 8), np.uint8))
    assert pair(images, masks, ".png")[0].mask.suffix == ".png"
    assert pair(images, masks, ".npz")[0].mask.suffix == ".npz"
    with pytest.raises(InputError, match="expected every name once"):
        pair(images, masks)


def test_every_pair_of_different_size_is_named(tmp_path):
    images, masks = make(tmp_path, ["a.png", "b.png", "c.png"])
    Image.new("RGB", (8, 7)).save(masks / "b.png")
    np.savez(masks / "c.npz", np.zeros((8, 6), np.uint8))
    (masks / "c.png").unlink()
    with pytest.raises(
        InputError, match=r"b\.png \(8 x 6 px and 8 x 7 px\), c\.npz \(8 x 6 px and 6 x 8 px\)"
    ):
        pair(images, masks)


def test_the_whole_images_of_a_prepared_split_are_found_wherever_both_moved(tmp_path, monkeypatch):
    before = tmp_path / "before"
    before.mkdir()
    make(before, [f"{number}.png" for number in range(8)])
    prepare(before / "images", before / "masks", before / "set" / "Name", tile_px=16, palette=GLOMERULI)
    after = tmp_path / "after"
    before.rename(after)
    found = {}
    for split in ("train", "valid", "test"):
        folder = after / "set" / "Name" / split
        whole = whole_pairs(folder / "images", folder / "masks")
        assert all(p.image.parent == after / "images" and p.mask.parent == after / "masks" for p in whole)
        tiles = {path.stem.rsplit("_", 1)[0] for path in (folder / "images").iterdir()}
        assert {p.stem for p in whole} == tiles
        found[split] = len(whole)
    assert sum(found.values()) == 8
    monkeypatch.chdir(after / "set" / "Name" / "train")
    assert len(whole_pairs("images", "masks")) == found["train"], "a relative path does as well"


def test_folders_that_prepare_did_not_make_have_no_whole_images(tmp_path):
    images, masks = make(tmp_path, ["a.png"])
    assert whole_pairs(images, masks) is None


def test_whole_images_that_are_gone_are_named(tmp_path):
    make(tmp_path, [f"{number}.png" for number in range(4)])
    prepare(tmp_path / "images", tmp_path / "masks", tmp_path / "set", tile_px=16)
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").unlink()
    train = tmp_path / "set" / "train"
    with pytest.raises(InputError, match=r"prepare\.json: expected the whole images.*sampling"):
        whole_pairs(train / "images", train / "masks")


def test_whole_images_whose_masks_have_another_size_by_now_are_named(tmp_path):
    images, masks = make(tmp_path, [f"{number}.png" for number in range(4)])
    prepare(images, masks, tmp_path / "set", tile_px=16)
    train = tmp_path / "set" / "train"
    stem = whole_pairs(train / "images", train / "masks")[0].stem
    (tmp_path / "other").mkdir()
    make(tmp_path / "other", [f"{stem}.png"], size_px=(5, 7))
    (tmp_path / "other" / "masks" / f"{stem}.png").replace(masks / f"{stem}.png")
    told = rf"masks: expected masks of their images' size, got {stem}\.png \(8 x 6 px and 7 x 5 px\)"
    with pytest.raises(InputError, match=told):
        whole_pairs(train / "images", train / "masks")


def test_sources_that_changed_since_they_were_cut_are_found(tmp_path):
    images, masks = make(tmp_path, [f"{number}.png" for number in range(6)])
    dataset = tmp_path / "set"
    prepare(images, masks, dataset, tile_px=16)
    split = [dataset / "train" / kind for kind in ("images", "masks")]
    of_split = [found.stem for found in whole_pairs(*split)]
    other = next(stem for stem in map(str, range(6)) if stem not in of_split)
    assert changed_since_prepared(*split) == []
    times = (dataset / "prepare.json").stat().st_mtime
    for stem in (of_split[0], other):
        Image.new("RGB", (8, 6), (255, 0, 0)).save(masks / f"{stem}.png")
        os.utime(masks / f"{stem}.png", (times - 9, times - 9))  # as a copy that keeps times
    assert changed_since_prepared(*split) == [masks / f"{of_split[0]}.png"]
    Image.new("RGB", (8, 6), (9, 9, 9)).save(images / f"{of_split[1]}.png")
    os.utime(images / f"{of_split[1]}.png", (times + 9, times + 9))
    (images / f"{of_split[0]}.png").touch()
    expected = {masks / f"{of_split[0]}.png", images / f"{of_split[1]}.png"}
    assert set(changed_since_prepared(*split)) == expected
    (masks / f"{of_split[0]}.png").unlink()
    assert changed_since_prepared(*split) == [images / f"{of_split[1]}.png"]
    assert changed_since_prepared(images, masks) == []


def test_what_cannot_be_compared_is_warned_of_and_ends_nothing(tmp_path):
    images, masks = make(tmp_path, [f"{number}.png" for number in range(4)])
    prepare(images, masks, tmp_path / "set", tile_px=16)
    folders = {"images_dir": tmp_path / "set/train/images", "masks_dir": tmp_path / "set/train/masks"}
    config, heard = make_config({"train": folders | {"use": "last"}}), RecordingProgress()
    warn_of_changed_sources(config, "train", heard)
    assert heard.warnings == []
    (tmp_path / "set/prepare.json").write_text("[]")
    warn_of_changed_sources(config, "train", heard)
    (told,) = heard.warnings
    assert "[train]: cannot compare with the sources that prepare used" in told
    assert "prepare.json: expected a record that prepare writes" in told


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"sources": [{"stem": "a", "split": "train"}]}', '{"sources": [1]}']
)
def test_a_damaged_record_is_refused(tmp_path, text):
    make(tmp_path, ["0.png", "1.png", "2.png"])
    prepare(tmp_path / "images", tmp_path / "masks", tmp_path / "set", tile_px=16)
    record = tmp_path / "set" / "prepare.json"
    assert json.loads(record.read_text())["sources"]
    record.write_text(text)
    with pytest.raises(InputError, match=r"prepare\.json: expected a record that prepare writes"):
        whole_pairs(tmp_path / "set" / "train" / "images", tmp_path / "set" / "train" / "masks")


def table(folder, text):
    path = folder / "groups.csv"
    path.write_text(text)
    return path


def test_groups_and_fixed_splits_are_read(tmp_path):
    path = table(tmp_path, "stem,group,split\na,s1,test\nb,s1,\nc,s2,\nunknown,s9,nonsense\n")
    assert read_groups(path, ["a", "b", "c"]) == ({"a": "s1", "b": "s1", "c": "s2"}, {"s1": "test"})


def test_the_split_column_may_be_absent(tmp_path):
    assert read_groups(table(tmp_path, "group,stem\ns,a\n"), ["a"]) == ({"a": "s"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stem,group\na,s1\na,s2\nb,s1\n", "one group for a, got 's1' and 's2'"),
        ("stem,group,split\na,s1,tset\nb,s1,\n", "train, valid, test or out for a, got 'tset'"),
        ("stem,group,split\na,s1,test\nb,s1,train\n", "one split for group s1, got test and train"),
        ("stem,group\na,s1\n", "a line for every image, got none for b"),
        ("stem,group\na,s1\nb,\n", "a group for every image, got an empty cell for b"),
        ("stem,group\na,s1\nb.x.png,s1\nb.png,s1\n", "none for b.*without its suffix, b for b.png"),
        ("name,group\na,s1\n", "stem, group"),
    ],
)
def test_a_table_that_leaves_doubt_is_refused(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_groups(table(tmp_path, text), ["a", "b"])


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"a": "s1", "b": "s1", "c": "s2"}, {"a": "s1", "b": "s1"}),
        ({"a": None, "b": None}, None),
        ({"a": "s1"}, None),
    ],
)
def test_what_prepare_was_told_of_groups_is_known_afterwards(tmp_path, groups, found):
    images = tmp_path / "test/images"
    assert prepared_groups(images, ["a", "b"]) is None
    sources = [{"stem": stem, "group": group} for stem, group in groups.items()]
    (tmp_path / "prepare.json").write_text(json.dumps({"sources": sources}))
    assert prepared_groups(images, ["a", "b"]) == found
