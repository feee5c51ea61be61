"""Segmenter: a model applied to images and slides."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, InputError, UsageError
from glomtile.inference.image import as_confidence, choose_class, resized_probs, segment_image
from glomtile.inference.label_store import LabelStore, panels_of
from glomtile.inference.predictor import KerasPredictor, PredictionSettings, override_settings
from glomtile.inference.quality_control import QualityFlags, assess_quality
from glomtile.inference.result import Segmentation, Timing
from glomtile.inference.window_size import (
    TilingSettings,
    choose_window,
    depends_on_window,
    image_margin,
    panel_px,
    slide_plan,
)
from glomtile.io.atomic import TemporaryFolder, storage_errors
from glomtile.io.images import PLAUSIBLE_MPP
from glomtile.io.pyramids import halve, level_sizes
from glomtile.models import folder as model_folder
from glomtile.objects.extraction import FoundObject, paint_objects
from glomtile.objects.postprocessing import ShapingRules
from glomtile.slides.slide import Slide, open_slide, slide_name
from glomtile.slides.tissue import SlideLike, SlideOverview, TissueMap, make_overview
from glomtile.tiling.grid import Plan, Span
from glomtile.tiling.sliding_window import predict_tiled
from glomtile.types import SILENT, Box, Float32, Predictor, Progress, Reader, UInt8
from glomtile.validation import number_argument, path_argument, typed_argument

_COARSER = 2.0
"""Limit of a slide's resolution, as a multiple of the coarsest in training."""

_BLOCK_PX = 512
_SURELY_BACKGROUND = np.float32(1 - 0.4 / 255)
"""From this background probability on no other class is more probable, and confidence rounds to 0."""

_SAME_MPP = 1e-6
_READ_PX = 16 * 2**20
"""Pixels that are read at once for a digest of all."""


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Labels of one image or slide, with their objects."""

    mpp: float
    zoom: float
    levels: Sequence[Any]
    objects: tuple[FoundObject, ...]
    overview: SlideOverview
    timing: Timing
    quality: QualityFlags
    confidence: UInt8 | None = None


class Segmenter:
    """A trained model, ready for any number of slides; several threads take turns at its network.

    Parameters
    ----------
    predictor : Predictor
        Of known micrometres per pixel.
    card : ModelCard
        Of the same model: classes, scales, and rules for objects.
    settings : TilingSettings
    """

    def __init__(self, predictor: Predictor, card: ModelCard, settings: TilingSettings | None = None) -> None:
        self._predictor = predictor
        self.card = card
        self.settings = settings or TilingSettings()
        self._window = choose_window(predictor, self.settings, card)

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        settings: TilingSettings | None = None,
        tta: Any = None,
        *,
        threshold: float | None = None,
        smoothing_px: float | None = None,
        min_expected_dice: float | None = None,
        runtime: str = "auto",
    ) -> Segmenter:
        """Load a model folder.

        Parameters
        ----------
        folder : path, optional
            ``best/`` or ``last/`` of a training run; the bundled model by default.
        settings : TilingSettings, optional
        tta : {"none", "flips", "rotations", "all"}, optional
            Test-time augmentation; the model's own by default.
        threshold : float, optional
            Foreground threshold of the probabilities; the model's own by default.
        smoothing_px : float, optional
            Standard deviation of the Gaussian over windows, in px of the network; the model's own by default.
        min_expected_dice : float, optional
            Results with a lower expected Dice are flagged; the model's own by default.
        runtime : {"auto", "openvino", "keras"}
            By default OpenVINO if the folder has an exported file and it is installed, else Keras.

        Raises
        ------
        ModelError
            The folder is no model, or damaged, or has no file for the runtime.
        UsageError
            `folder` or `settings` is none, `tta` or `runtime` is unknown, or a number is out of range.
        MissingExtraError
            The runtime is not installed.
        """
        from glomtile.inference.runtime import OpenVinoPredictor, chosen_runtime

        if settings is not None:
            typed_argument("settings", settings, TilingSettings, "TilingSettings")

        def read(place: Path) -> Segmenter:
            card = model_folder.read_card(place)
            card = override_settings(card, tta, threshold, smoothing_px, min_expected_dice)
            predictor: Predictor
            if chosen_runtime(card, runtime, place) == "openvino":
                assert card.runtime is not None
                name = card.runtime.name
                predictor = OpenVinoPredictor(place, card, settings.network_threads if settings else None)
            else:
                name, loaded = model_folder.NETWORK, model_folder.load_model_folder(place)
                prediction = PredictionSettings.of_card(card)
                predictor = KerasPredictor(loaded.model, loaded.geometry, card.mpp, prediction)
            # Only the digest of the file in use: others beside it do not matter.
            card = card.model_copy(update={"sha256": {name: card.sha256[name]}})
            return cls(predictor, card, settings)

        named = model_folder.model_folder(None if folder is None else path_argument("folder", folder))
        return model_folder.read_whole(named, read)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the pixels besides the slide, as JSON."""
        card = self.card
        return {
            "model": card.sha256,
            "card": card.deciding_digest,
            "runtime": getattr(self._predictor, "runtime", None),
            "precision": getattr(self._predictor, "precision", None),
            "tta": card.tta,
            "threshold": card.threshold,
            "smoothing_px": card.smoothing_px,
            "objects": card.objects.model_dump(mode="json"),
            "window_px": self._window[0],
            "overlap_px": self._window[1],
            "batch_size": self.settings.batch_size,
            "tissue_mask": self.settings.tissue_mask,
        }

    def segment(
        self,
        source: str | Path | SlideLike,
        *,
        mpp: float | None = None,
        work: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> Segmentation:
        """Segment one slide or image.

        Parameters
        ----------
        source : path or slide
            Results are named after its file, ``slide`` where it has none.
        mpp : float, optional
            Micrometres per pixel at full resolution, in place of the file's.
        work : Path, optional
            Folder for unfinished rows: the same call continues rows of an earlier one. Without it a temporary
            folder is used, which exists as long as the result or one of its planes.
        identity : mapping, optional
            Identity of the slide, as JSON; rows of another one in `work` are not continued. By default path,
            size and time of its file; of a slide without file, a digest of all its pixels.
        progress : Progress

        Returns
        -------
        Segmentation

        Raises
        ------
        ArgumentError
            `source` is neither a path nor a slide, or `mpp` is not plausible or another than the slide was
            opened with, or JSON cannot hold `identity`.
        InputError
            The slide cannot be read, has no scale, or is much too coarse for the model.
        StorageError
            Rows cannot be written.
        """
        work = None if work is None else path_argument("work", work)
        with opened(source, mpp, progress) as slide:
            name, deciding = slide_label(slide), {**(identity or {}), **self.identity}
            # Ids do not depend on the window where pixels do not; an image's margin depends on it.
            if not slide.plain and not depends_on_window(self._predictor, self._window[1]):
                del deciding["window_px"]
            digest = digest_json("identity", deciding)
            scale = self._require_scale(slide, name)
            if slide.plain:
                found = self._segment_image(slide, scale, progress)
            else:
                found = self._segment_slide(slide, scale, work, identity, progress)
            assert slide.mpp is not None
            return Segmentation(
                name=slide_name(name),
                kind=slide.kind,
                size_px=slide.size_px,
                mpp_l0=slide.mpp,
                mpp_source=slide.mpp_source or "given",
                mpp=found.mpp,
                zoom=found.zoom,
                palette=self.card.palette(),
                levels=found.levels,
                objects=found.objects,
                tissue=found.overview.tissue,
                overview=found.overview.overview,
                overview_zoom=found.overview.overview_zoom,
                effort=found.timing,
                quality=found.quality,
                model=",".join(sorted(self.card.sha256.values())),
                settings=digest,
                confidence=found.confidence,
            )

    def plan(self, slide: SlideLike, where: str | Path = "slide") -> tuple[Plan, TissueMap]:
        """Return the windows over a slide and its tissue, without predicting.

        Raises
        ------
        InputError
            See `segment`.
        """
        scale = self._require_scale(slide, where)
        reader = slide.at(self._predictor.mpp)
        plan = slide_plan(reader.size_px, *self._window, self._predictor.stride_px)
        return plan, make_overview(slide, scale, reader.zoom).tissue

    def _segment_image(self, slide: SlideLike, scale: float, progress: Progress) -> _Labelled:
        """Label an image in memory, at its own size."""
        started = perf_counter()
        overview = make_overview(slide, scale, 1.0)
        tissue_s = perf_counter() - started
        margin = image_margin(
            slide.at(self._predictor.mpp).size_px, self._window, self.settings, self._predictor.stride_px
        )
        tiling = replace(self.settings, window_px=self._window[0], tile_px=None, overlap_px=margin)
        image = slide.at(scale).read(Box(0, 0, *slide.size_px))
        seen = segment_image(image, self._predictor, tiling, scale, keep_probs=True, progress=progress)
        assert seen.probs is not None
        confidence = np.empty(slide.size_px, np.uint8)
        for top, rows in resized_probs(seen.probs, slide.size_px):
            confidence[top : top + rows.shape[0]] = as_confidence(rows)
        timing = Timing(seen.run.windows, seen.run.skipped, seen.run.network_s, seen.run.wall_s, tissue_s)
        planes = [np.zeros(size, np.uint8) for size in level_sizes(slide.size_px)]
        return self._labelled(slide, scale, 1.0, seen.labels, confidence, planes, overview, timing, progress)

    def _segment_slide(
        self,
        slide: SlideLike,
        scale: float,
        work: Path | None,
        identity: Mapping[str, Any] | None,
        progress: Progress,
    ) -> _Labelled:
        """Label a slide at the model's scale, with finished rows on disk."""
        keep = TemporaryFolder() if work is None else None
        folder = work if keep is None else keep.folder / "work"
        assert folder is not None
        if identity is None:
            identity = {} if keep is not None else fingerprint(slide, self._predictor.mpp)
        started = perf_counter()
        reader = slide.at(self._predictor.mpp)
        overview = make_overview(slide, scale, reader.zoom)
        tissue_s = perf_counter() - started
        plan = slide_plan(reader.size_px, *self._window, self._predictor.stride_px)
        panels = panels_of(reader.size_px[1], panel_px(plan, self._predictor.num_classes))
        store = LabelStore(folder, reader.size_px, panels, {**self.identity, **identity, "mpp": scale}, keep)
        planes = store.fresh_planes(level_sizes(reader.size_px))
        timing = replace(self._fill(store, reader, plan, overview.tissue, progress), tissue_s=tissue_s)
        assert reader.mpp is not None
        with storage_errors(folder):
            return self._labelled(
                slide, reader.mpp, reader.zoom, store.labels, store.confidence, planes, overview, timing,
                progress,
            )  # fmt: skip

    def _fill(
        self, store: LabelStore, reader: Reader, plan: Plan, tissue: TissueMap, progress: Progress
    ) -> Timing:
        """Label the missing rows of a slide, panel by panel."""
        total = Timing()
        for number, (left, right) in enumerate(store.panels):
            if store.rows_done[number] == reader.size_px[0]:
                continue

            def take(top: int, probs: Float32, panel: int = number) -> None:
                store.append(panel, *classes_and_confidence(probs))

            run = predict_tiled(
                reader,
                self._predictor,
                plan,
                take,
                blend=self.settings.blend,
                batch_size=self.settings.batch_size,
                read_threads=self.settings.read_threads,
                skip=(lambda window: not tissue.near_tissue(window.own))
                if self.settings.tissue_mask
                else None,
                panel=Span(left, right),
                from_row_px=store.rows_done[number],
                progress=progress,
            )
            total = Timing(
                total.windows + run.windows,
                total.skipped + run.skipped,
                total.network_s + run.network_s,
                total.tiled_s + run.wall_s,
            )
        return total

    def _labelled(
        self,
        slide: SlideLike,
        mpp: float,
        zoom: float,
        labels: Any,
        confidence: Any,
        levels: Sequence[Any],
        overview: SlideOverview,
        timing: Timing,
        progress: Progress,
    ) -> _Labelled:
        """Paint the objects of labels on empty levels, and assess the result."""
        started = perf_counter()
        progress.start("objects", None)
        masked = self.settings.tissue_mask
        objects, too_large = paint_objects(
            labels,
            confidence,
            levels[0],
            self._predictor.num_classes,
            mpp,
            ShapingRules(**self.card.objects.model_dump()),
            overview.tissue.glass if masked else None,
            progress,
        )
        for upper, lower in itertools.pairwise(levels):
            halve(upper, lower)
        timing = replace(timing, objects_s=perf_counter() - started)
        quality = assess_quality(
            self.card, slide, overview.tissue, zoom, labels, confidence,
            masked=masked and not slide.plain, too_large=too_large,
        )  # fmt: skip
        kept = confidence if slide.plain else None
        return _Labelled(mpp, zoom, levels, objects, overview, timing, quality, kept)

    def _require_scale(self, slide: SlideLike, where: str | Path) -> float:
        if self._predictor.mpp is None:
            raise UsageError(
                "model", "expected a model of known micrometres per pixel, got one without [model] mpp"
            )
        if slide.mpp is None:
            raise InputError(
                where,
                "expected micrometres per pixel in the file, found none",
                "give --mpp: 20x is usually about 0.5, 40x about 0.25",
            )
        coarsest = self.card.mpp_range[1] if self.card.mpp_range else self._predictor.mpp
        if slide.mpp > _COARSER * coarsest and not self.settings.force:
            raise InputError(
                where,
                f"expected at most {_COARSER * coarsest:.3g} µm per pixel, twice the coarsest in training, "
                f"got {slide.mpp:.3g}",
                "--force segments it nevertheless",
            )
        return slide.mpp


def classes_and_confidence(probs: Float32) -> tuple[UInt8, UInt8]:
    """Return class numbers and confidence of rows that may be wide and mostly background.

    Parameters
    ----------
    probs : (h, W, K) float32 ndarray

    Returns
    -------
    labels, confidence : (h, W) uint8 ndarray
    """
    labels, confidence = (np.zeros(probs.shape[:2], np.uint8) for _ in range(2))
    for left in range(0, probs.shape[1], _BLOCK_PX):
        part = probs[:, left : left + _BLOCK_PX]
        if part[..., 0].min() < _SURELY_BACKGROUND:
            labels[:, left : left + _BLOCK_PX] = choose_class(part)
            confidence[:, left : left + _BLOCK_PX] = as_confidence(part)
    return labels, confidence


@contextmanager
def opened(
    source: str | Path | SlideLike, mpp: float | None = None, progress: Progress = SILENT
) -> Iterator[SlideLike]:
    """Yield a slide; close it afterwards if it was opened here.

    Parameters
    ----------
    source : path or slide
    mpp : float or None
        Micrometres per pixel at full resolution, in place of the file's.
    progress : Progress

    Raises
    ------
    ArgumentError
        `source` is neither a path nor a slide, or `mpp` is not plausible, or is another than a slide was
        opened with or, not being a `Slide`, has.
    InputError
        The slide cannot be read.
    """
    if not all(hasattr(source, name) for name in ("at", "thumbnail", "size_px", "mpp")):
        if not isinstance(source, str | PathLike):
            raise ArgumentError("source", "a path or a slide", source)
        with open_slide(source, mpp=mpp, progress=progress) as slide:
            yield slide
        return
    given = cast(SlideLike, source)
    if mpp is not None:
        number_argument("mpp", mpp, *PLAUSIBLE_MPP, "µm per pixel")
    if mpp is None or (given.mpp is not None and abs(mpp / given.mpp - 1) <= _SAME_MPP):
        yield given
    elif isinstance(given, Slide) and given.mpp_source != "given":
        with open_slide(given.path, mpp=mpp, progress=progress) as slide:
            yield slide
    else:
        wanted = "none, as this slide has no scale"
        if given.mpp is not None:
            wanted = f"the {given.mpp:g} µm per pixel that this slide has"
        raise ArgumentError("mpp", wanted, mpp, "open_slide(path, mpp=...) opens a slide at another")


def slide_label(slide: SlideLike) -> str:
    """Return the name of a slide's file; ``"slide"`` if it has none."""
    path = getattr(slide, "path", None)
    return Path(path).name if isinstance(path, str | PathLike) else "slide"


def digest_json(name: str, value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping in any order; an ArgumentError names it if JSON cannot hold it."""
    try:
        text = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as problem:
        raise ArgumentError(name, "a mapping that JSON can hold", value) from problem
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(slide: SlideLike, mpp: float | None) -> dict[str, Any]:
    """Return an identity of a slide, as JSON.

    Parameters
    ----------
    slide : SlideLike
    mpp : float or None
        Micrometres per pixel at which it is read.

    Returns
    -------
    dict
        Path, size and time of its file; without file, a digest of its pixels, which are all read.
    """
    path = getattr(slide, "path", None)
    if isinstance(path, str | PathLike) and Path(path).is_file():
        status = Path(path).stat()
        return {"path": str(Path(path).resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    reader = slide.at(mpp)
    height, width = reader.size_px
    digest, rows = hashlib.sha256(), max(1, _READ_PX // width)
    for top in range(0, height, rows):
        band = reader.read(Box(top, 0, min(top + rows, height), width))
        digest.update(np.ascontiguousarray(band).data)
    return {"pixels": digest.hexdigest()}
