"""Objects do not depend on windows; rows already done are not asked for again."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk
from skimage.measure import label
from tests.fakes import ArraySlide, ThresholdNetwork, threshold_card

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, InputError, StorageError
from glomtile.inference.image import TilingSettings
from glomtile.inference.segmenter import Segmentation, Segmenter
from glomtile.slides.slide import open_slide
from glomtile.types import UInt8

DISCS = ((300, 400, 40), (512, 1024, 45), (900, 300, 30), (1000, 1100, 50))


def tissue_with_discs() -> UInt8:
    pixels = np.full((1300, 2600, 3), 243, np.uint8)
    pixels[100:1200, 100:1300] = (200, 120, 170)
    for row, column, radius in DISCS:
        pixels[disk((row, column), radius)] = (120, 40, 120)
    return pixels


def segmenter(network: ThresholdNetwork, window: int, mask: bool = True) -> Segmenter:
    card = threshold_card().model_copy(update={"sha256": {"model.keras": "0f" * 32}})
    return Segmenter(network, card, TilingSettings(tissue_mask=mask, window_px=window))


def write_slide(path: Path, pixels: UInt8, mpp: float | None = 2.0) -> Path:
    told = {} if mpp is None else {f"PhysicalSize{axis}": mpp for axis in "XY"}
    tifffile.imwrite(
        path, pixels, ome=True, photometric="rgb", tile=(256, 256), metadata={"axes": "YXS", **told}
    )
    return path


def vanish() -> None:
    raise InputError("slide", "expected a slide, got none: it vanished")


def files_of(found: Segmentation, out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found.save(str(out))}


@pytest.mark.parametrize("window", [128, 336, 2048])
def test_the_same_files_at_any_window_size(tmp_path: Path, window: int) -> None:
    picture = tissue_with_discs()
    whole = segmenter(ThresholdNetwork(), 1024).segment(ArraySlide(picture))
    found = segmenter(ThresholdNetwork(), window).segment(ArraySlide(picture))
    assert files_of(found, tmp_path / "a") == files_of(whole, tmp_path / "b")
    regions = label(picture[..., 1] < 80, connectivity=2)
    assert len(found.objects) == regions.max() == len(DISCS)
    centres = sorted((o.measures.centroid_y_px, o.measures.centroid_x_px) for o in found.objects)
    # A disc's middle pixel has its own middle half a pixel further on.
    assert np.allclose(centres, [(r + 0.5, c + 0.5) for r, c, _ in sorted(DISCS)], atol=0.1)


def test_glass_is_not_read_and_no_object_is_lost() -> None:
    masked, bare = ArraySlide(tissue_with_discs()), ArraySlide(tissue_with_discs())
    found = segmenter(ThresholdNetwork(), 128).segment(masked)
    everything = segmenter(ThresholdNetwork(), 128, mask=False).segment(bare)
    assert len(masked.boxes) < 0.65 * len(bare.boxes)
    assert max(box.left for box in masked.boxes) < 1700
    assert [o.polygon for o in found.objects] == [o.polygon for o in everything.objects]


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    picture = np.tile(tissue_with_discs(), (3, 1, 1))
    undisturbed = ThresholdNetwork()
    whole = segmenter(undisturbed, 128).segment(ArraySlide(picture))
    stopped, second = ThresholdNetwork({undisturbed.calls * 3 // 4: vanish}), ThresholdNetwork()
    with pytest.raises(InputError, match="vanished"):
        segmenter(stopped, 128).segment(ArraySlide(picture), work=tmp_path / "work")
    found = segmenter(second, 128).segment(ArraySlide(picture), work=tmp_path / "work")
    assert second.calls < undisturbed.calls * 0.75
    assert files_of(found, tmp_path / "a") == files_of(whole, tmp_path / "b")


def test_labels_outlive_the_result_they_come_from_and_then_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = segmenter(ThresholdNetwork(), 1024).segment(ArraySlide(tissue_with_discs()))
    expected = found.labels[:, :]
    del found
    assert expected.any()
    at_once = segmenter(ThresholdNetwork(), 1024).segment(ArraySlide(tissue_with_discs())).labels[:, :]
    np.testing.assert_array_equal(at_once, expected)
    smaller = segmenter(ThresholdNetwork(), 1024).segment(ArraySlide(tissue_with_discs())).levels[1]
    assert smaller[:, :].any()
    del smaller
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_labels_whose_folder_was_removed_are_an_error_not_background(tmp_path: Path) -> None:
    found = segmenter(ThresholdNetwork(), 1024).segment(
        ArraySlide(tissue_with_discs()), work=tmp_path / "work"
    )
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(StorageError, match="it does not exist"):
        found.labels[:, :]


def other_discs() -> UInt8:
    return np.ascontiguousarray(tissue_with_discs()[::-1])


@pytest.mark.parametrize("kind", ["arrays", "paths", "slides"])
def test_work_left_by_one_slide_is_not_taken_for_anothers(tmp_path: Path, kind: str) -> None:
    pictures = {"a": tissue_with_discs(), "b": other_discs()}
    expected = {
        name: segmenter(ThresholdNetwork(), 336).segment(ArraySlide(p)).labels[:]
        for name, p in pictures.items()
    }
    assert (expected["a"] != expected["b"]).any()
    paths = {name: write_slide(tmp_path / f"{name}.ome.tif", p) for name, p in pictures.items()}
    calls = []
    for name in ("a", "b", "b", "a"):
        network = ThresholdNetwork()
        if kind == "arrays":
            found = segmenter(network, 336).segment(ArraySlide(pictures[name]), work=tmp_path / "work")
        elif kind == "paths":
            found = segmenter(network, 336).segment(paths[name], work=tmp_path / "work")
        else:
            with open_slide(paths[name]) as slide:
                found = segmenter(network, 336).segment(slide, work=tmp_path / "work")
        np.testing.assert_array_equal(found.labels[:], expected[name])
        calls.append(network.calls)
    assert calls[2] == 0, "the same slide once more is taken up"
    assert min(calls[0], calls[1], calls[3]) > 0


def test_a_file_that_was_written_anew_is_another_slide(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.ome.tif", tissue_with_discs())
    segmenter(ThresholdNetwork(), 336).segment(path, work=tmp_path / "work")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(write_slide(path, other_discs()), ns=(later, later))
    found = segmenter(ThresholdNetwork(), 336).segment(path, work=tmp_path / "work")
    np.testing.assert_array_equal(
        found.labels[:], segmenter(ThresholdNetwork(), 336).segment(ArraySlide(other_discs())).labels[:]
    )


def test_results_of_an_open_slide_are_called_as_those_of_its_path(tmp_path: Path) -> None:
    names = []
    for name, suffix in (("a", ".ome.tif"), ("b.c", ".tif")):
        path = write_slide(tmp_path / f"{name}{suffix}", tissue_with_discs())
        with open_slide(path) as slide:
            names.append(segmenter(ThresholdNetwork(), 336).segment(slide).name)
    assert names == ["a", "b.c"]
    assert segmenter(ThresholdNetwork(), 336).segment(ArraySlide(tissue_with_discs())).name == "slide"


@pytest.mark.parametrize("told", [None, 2.0])
def test_a_scale_beside_an_open_slide_counts_as_beside_its_path(tmp_path: Path, told: float | None) -> None:
    path = write_slide(tmp_path / "a.ome.tif", tissue_with_discs(), told)
    by_path = segmenter(ThresholdNetwork(), 336).segment(path, mpp=1.0)
    with open_slide(path) as slide:
        found = segmenter(ThresholdNetwork(), 336).segment(slide, mpp=1.0)
        assert slide.mpp == told
    assert (found.mpp_l0, found.mpp_source) == (by_path.mpp_l0, by_path.mpp_source) == (1.0, "given")
    assert files_of(found, tmp_path / "a") == files_of(by_path, tmp_path / "b")


def test_a_scale_that_contradicts_the_one_a_slide_was_opened_at_is_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.ome.tif", tissue_with_discs())
    with open_slide(path, mpp=1.0) as slide:
        assert segmenter(ThresholdNetwork(), 336).segment(slide, mpp=1.0).mpp_l0 == 1.0
        with pytest.raises(ArgumentError, match=r"mpp: expected the 1 µm per pixel .*got 2.0.*open_slide"):
            segmenter(ThresholdNetwork(), 336).segment(slide, mpp=2.0)
    with pytest.raises(ArgumentError, match=r"mpp: expected none, as this slide has no scale, got 2.0"):
        segmenter(ThresholdNetwork(), 336).segment(ArraySlide(tissue_with_discs(), None), mpp=2.0)
    with pytest.raises(ArgumentError, match=r"mpp: expected 0.05 to 20"):
        segmenter(ThresholdNetwork(), 336).segment(ArraySlide(tissue_with_discs()), mpp=float("nan"))


def test_ids_follow_from_input_and_settings_and_from_nothing_else(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.ome.tif", tissue_with_discs())
    card = threshold_card().model_copy(update={"sha256": {"model.keras": "0f" * 32}})

    def ids(
        card: ModelCard = card,
        place: Path = path,
        mpp: float = 2.0,
        identity: dict[str, object] | None = None,
        **settings: Any,
    ) -> str:
        found = Segmenter(ThresholdNetwork(), card, TilingSettings(**settings)).segment(
            place, mpp=mpp, identity=identity
        )
        return found.identity

    rules = card.objects.model_copy(update={"min_area_um2": 5.0})
    changed = [
        ids(),
        ids(card=card.model_copy(update={"sha256": {"model.keras": "0e" * 32}})),
        ids(card=card.model_copy(update={"threshold": 0.95})),
        ids(card=card.model_copy(update={"tta": "flips"})),
        ids(card=card.model_copy(update={"smoothing_px": 0.5})),
        ids(card=card.model_copy(update={"objects": rules})),
        ids(mpp=1.0),
        ids(tissue_mask=False),
        ids(identity={"sha256": "1"}),
        ids(identity={"sha256": "2"}),
        ids(place=Path(shutil.copy(path, tmp_path / "b.ome.tif"))),
    ]
    assert len(set(changed)) == len(changed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copied = Path(shutil.copy(path, elsewhere / path.name))
    assert ids(place=copied) == ids(read_threads=1, network_threads=3) == ids(window_px=128) == ids()
    told = {"sha256": "1", "mpp": None}
    assert ids(identity=dict(reversed(told.items()))) == ids(identity=told)
    with pytest.raises(ArgumentError, match="identity: expected a mapping that JSON can hold"):
        ids(identity={"a": {1}})


@pytest.mark.parametrize("facts", [{"local": False}, {"context_px": 200}])
def test_ids_tell_windows_apart_where_pixels_depend_on_them(facts: dict[str, object]) -> None:
    def ids(window_px: int) -> str:
        network = ThresholdNetwork()
        vars(network).update(facts)
        return segmenter(network, window_px).segment(ArraySlide(tissue_with_discs())).identity

    assert ids(512) == ids(512) != ids(528)


def test_a_slide_without_scale_or_too_coarse_is_refused() -> None:
    with pytest.raises(InputError, match="--mpp"):
        segmenter(ThresholdNetwork(), 128).segment(ArraySlide(tissue_with_discs(), None))
    with pytest.raises(InputError, match="--force"):
        segmenter(ThresholdNetwork(), 128).segment(ArraySlide(tissue_with_discs(), 4.5))


@pytest.mark.parametrize(
    ("mask", "more"),
    [(True, ", so nothing was predicted; --no-tissue-mask predicts everywhere"), (False, "")],
)
def test_a_slide_without_tissue_is_flagged(mask: bool, more: str) -> None:
    found = segmenter(ThresholdNetwork(), 128, mask).segment(
        ArraySlide(np.full((300, 400, 3), 243, np.uint8))
    )
    assert not found.objects
    assert found.quality.warnings == (f"tissue: none found{more}",)
    assert found.figures()["quality_flags"] == f"tissue: none found{more}"


def test_a_card_of_another_scale_or_class_makes_other_results() -> None:
    """Compare the identity of results: the weights are the same file, so their digest is not enough."""
    card = threshold_card()
    trained = card.model_copy(update={"scores": {"test": 1}, "versions": {"keras": "9"}, "epoch": 7})
    assert trained.deciding_digest == card.deciding_digest
    renamed = card.classes[1].model_copy(update={"name": "tubule"})
    for change in ({"mpp": 1.0}, {"classes": (card.classes[0], renamed)}, {"color_order": "BGR"}):
        other = card.model_copy(update=change)
        assert Segmenter(ThresholdNetwork(), other).identity != Segmenter(ThresholdNetwork(), card).identity
