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
from glomtile.inference.predictor import PredictionSettings, override_settings
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
from glomtile.io import atomic
from glomtile.io.atomic import TemporaryFolder
from glomtile.io.ome_tiff import halve, level_sizes
from glomtile.io.resolution import PLAUSIBLE_MPP
from glomtile.objects.extraction import LARGEST_PX, FoundObject, paint_objects
from glomtile.objects.postprocessing import ShapingRules
from glomtile.slides.slide import Slide, open_slide, slide_name
from glomtile.slides.tissue import SlideLike, SlideOverview, TissueMap, make_overview
from glomtile.tiling.grid import Plan, Span, Window
from glomtile.tiling.sliding_window import predict_tiled
from glomtile.types import SILENT, Box, Float32, Predictor, Progress, Reader, UInt8
from glomtile.validation import number_argument, path_argument, typed_argument

_BLOCK_PX = 512
_SURELY_BACKGROUND = np.float32(1 - 0.4 / 255)
"""From here on no other class is the likelier, and confidence rounds to 0."""


@dataclass(frozen=True, eq=False)
class PictureAnswer:
    """A picture labelled at its own size.

    Attributes
    ----------
    labels, confidence : (H, W) uint8 ndarray
        Class numbers, and how probable the most probable class above 0 is, 0 to 255.
    look : Look
    effort : Effort
    """

    labels: UInt8
    confidence: UInt8
    look: SlideOverview
    effort: Timing


def answer_picture(
    slide: SlideLike, scale: float, predictor: Predictor, tiling: TilingSettings, progress: Progress = SILENT
) -> PictureAnswer:
    """Label a picture that fits the memory.

    Parameters
    ----------
    slide : SlideLike
        Read whole.
    scale : float
        Its micrometres per pixel.
    predictor : Predictor
    tiling : Tiling
    progress : Progress

    Raises
    ------
    InputError
        The picture cannot be read.
    """
    began = perf_counter()
    look = make_overview(slide, scale, 1.0)
    tissue_s = perf_counter() - began
    image = slide.at(scale).read(Box(0, 0, *slide.size_px))
    seen = segment_image(image, predictor, tiling, scale, keep_probs=True, progress=progress)
    assert seen.probs is not None
    confidence = np.empty(slide.size_px, np.uint8)
    for top, rows in resized_probs(seen.probs, slide.size_px):
        confidence[top : top + rows.shape[0]] = as_confidence(rows)
    run = seen.run
    effort = Timing(run.windows, run.skipped, run.network_s, run.wall_s, tissue_s)
    return PictureAnswer(seen.labels, confidence, look, effort)


def fill_store(
    store: LabelStore,
    reader: Reader,
    predictor: Predictor,
    plan: Plan,
    tissue: TissueMap,
    settings: TilingSettings,
    progress: Progress = SILENT,
    only: int | None = None,
) -> Timing:
    """Label what is missing of a slide, panel by panel, each from where its rows ended.

    Parameters
    ----------
    store : LabelStore
    reader : Reader
        The slide at the predictor's scale.
    predictor : Predictor
    plan : Plan
        The windows.
    tissue : TissueMap
        Windows away from it are not read, unless the settings say otherwise.
    settings : Settings
    progress : Progress
    only : int or None
        The panel that is wanted; all of them where ``None``.

    Returns
    -------
    Effort
        Of this run alone.

    Raises
    ------
    InputError
        The slide cannot be read; rows that were finished stay on disk.
    StorageError
        Rows cannot be written.
    """

    def is_glass(window: Window) -> bool:
        return not tissue.near_tissue(window.own)

    total = Timing()
    for number, (left, right) in enumerate(store.panels):
        done = store.rows_done[number]
        if done == reader.size_px[0] or only not in (None, number):
            continue

        def take(top: int, probs: Float32, panel: int = number) -> None:
            store.append(panel, *classes_and_confidence(probs))

        run = predict_tiled(
            reader,
            predictor,
            plan,
            take,
            batch_size=settings.batch_size,
            read_threads=settings.read_threads,
            skip=is_glass if settings.tissue_mask else None,
            panel=Span(left, right),
            from_row_px=done,
            progress=progress,
        )
        total = Timing(
            total.windows + run.windows,
            total.skipped + run.skipped,
            total.network_s + run.network_s,
            total.tiled_s + run.wall_s,
        )
    return total


def classes_and_confidence(probs: Float32) -> tuple[UInt8, UInt8]:
    """Class numbers and `as_confidence` of rows that may be wide and mostly glass.

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


_SAME = 1e-6
_READ_PX = 16 * 2**20
"""Pixels that are read at once for a digest of them all."""


@contextmanager
def opened(
    source: str | Path | SlideLike, mpp: float | None = None, progress: Progress = SILENT
) -> Iterator[SlideLike]:
    """The slide that is meant; closed in the end where it was opened here.

    Parameters
    ----------
    source : path or slide
    mpp : float or None
        Micrometres per pixel at full resolution, in place of what the file says.
    progress : Progress

    Raises
    ------
    ArgumentError
        `source` is neither a path nor a slide, or `mpp` is not plausible, or is another than a slide was
        opened with or, being none of ours, has.
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
    if mpp is None or _has_scale(given, number_argument("mpp", mpp, *PLAUSIBLE_MPP, "µm per pixel")):
        yield given
    elif isinstance(given, Slide) and given.mpp_source != "given":
        with open_slide(given.path, mpp=mpp, progress=progress) as slide:
            yield slide
    else:
        wanted = (
            "none, as this slide has no scale"
            if given.mpp is None
            else f"the {given.mpp:g} µm per pixel that this slide has"
        )
        raise ArgumentError("mpp", wanted, mpp, "open_slide(path, mpp=...) opens a slide at another")


def _has_scale(slide: SlideLike, mpp: float) -> bool:
    return slide.mpp is not None and abs(mpp / slide.mpp - 1) <= _SAME


def slide_label(slide: SlideLike) -> str:
    """Name of the file that a slide is from; ``"slide"`` where it is from none."""
    path = getattr(slide, "path", None)
    return Path(path).name if isinstance(path, str | PathLike) else "slide"


def digest_json(name: str, told: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping, the same in any order; an ArgumentError names it where JSON cannot hold it."""
    try:
        text = json.dumps(told, sort_keys=True)
    except (TypeError, ValueError) as problem:
        raise ArgumentError(name, "a mapping that JSON can hold", told) from problem
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(slide: SlideLike, mpp: float | None) -> dict[str, Any]:
    """What tells a slide from others, as JSON has it.

    Parameters
    ----------
    slide : SlideLike
    mpp : float or None
        Micrometres per pixel at which it is looked at.

    Returns
    -------
    dict
        Place, size and time of its file; where it is from none, a digest of its pixels, which are all read.
    """
    path = getattr(slide, "path", None)
    if isinstance(path, str | PathLike) and Path(path).is_file():
        facts = Path(path).stat()
        return {"path": str(Path(path).resolve()), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    reader = slide.at(mpp)
    height, width = reader.size_px
    digest, rows = hashlib.sha256(), max(1, _READ_PX // width)
    for top in range(0, height, rows):
        band = reader.read(Box(top, 0, min(top + rows, height), width))
        digest.update(np.ascontiguousarray(band).data)
    return {"pixels": digest.hexdigest()}


_COARSER = 2.0
"""How many times coarser than anything seen in training a slide may be."""


class Segmenter:
    """A trained model, ready for any number of slides; several threads take turns at its network.

    Parameters
    ----------
    predictor : Predictor
        Must know its scale.
    card : ModelCard
        Of the same model: classes, scales, and how objects are made of labels.
    settings : Settings
    """

    def __init__(self, predictor: Predictor, card: ModelCard, settings: TilingSettings | None = None) -> None:
        self._predictor = predictor
        self._card = card
        self._settings = settings or TilingSettings()
        self._window = choose_window(predictor, self._settings, card)

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
            ``best/`` or ``last/`` of a training run; the model that comes with the package by default.
        settings : Settings, optional
        tta : {"none", "flips", "rotations", "all"}, optional
            Over which turned copies of a window the answer is averaged; the model's own choice by default.
        threshold : float, optional
            Probability from which a pixel is no background; the model's own by default.
        smoothing_px : float, optional
            Standard deviation of the Gaussian over windows, in px of the network; the model's own by default.
        min_expected_dice : float, optional
            Results with a lower expected Dice are flagged; the model's own by default.
        runtime : {"auto", "openvino", "keras"}
            What computes the network: the exported file with OpenVINO where the folder has one, else Keras.

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
        from glomtile.models import folder as model_folder

        if settings is not None:
            typed_argument("settings", settings, TilingSettings, "Settings")
        named = model_folder.model_folder(None if folder is None else path_argument("folder", folder))

        def read(place: Path) -> Segmenter:
            card = model_folder.read_card(place)
            card = override_settings(card, tta, threshold, smoothing_px, min_expected_dice)
            if chosen_runtime(card, runtime, place) == "openvino":
                assert card.runtime is not None
                light = OpenVinoPredictor(place, card, settings.network_threads if settings else None)
                return cls(light, _of_file(card, card.runtime.name), settings)
            from glomtile.inference.predictor import KerasPredictor

            loaded = model_folder.load_model_folder(place)
            predictor = KerasPredictor(
                loaded.model, loaded.geometry, card.mpp, PredictionSettings.of_card(card)
            )
            return cls(predictor, _of_file(card, model_folder.NETWORK), settings)

        return model_folder.read_whole(named, read)

    @property
    def card(self) -> ModelCard:
        """What the model says of itself."""
        return self._card

    @property
    def settings(self) -> TilingSettings:
        """How slides are segmented, apart from the model."""
        return self._settings

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the pixels besides the slide, as JSON has it."""
        return {
            "model": self._card.sha256,
            "card": self._card.deciding_digest,
            "runtime": getattr(self._predictor, "runtime", None),
            "precision": getattr(self._predictor, "precision", None),
            "tta": self._card.tta,
            "threshold": self._card.threshold,
            "smoothing_px": self._card.smoothing_px,
            "objects": self._card.objects.model_dump(mode="json"),
            "window_px": self._window[0],
            "overlap_px": self._window[1],
            "batch_size": self._settings.batch_size,
            "tissue_mask": self._settings.tissue_mask,
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
        """Segment one slide or picture.

        Parameters
        ----------
        source : path or slide
            Results are called after its file, ``slide`` where it is from none.
        mpp : float, optional
            Micrometres per pixel at full resolution, in place of what the file says.
        work : Path, optional
            Folder for unfinished rows: the same call goes on from those that an earlier one left there.
            Left out, a temporary one that lives as long as the result or one of its planes.
        identity : mapping, optional
            What tells the slide from others, as JSON has it; rows of another one in `work` are not taken up.
            By default place, size and time of its file; of a slide from none, a digest of all its pixels.
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
        told = {**(identity or {}), **self.identity}
        with opened(source, mpp, progress) as slide:
            # The same ids at any size where the pixels are the same; a picture's margin goes by the window.
            if not slide.plain and not depends_on_window(self._predictor, self._window[1]):
                del told["window_px"]
            settings = digest_json("identity", told)
            found = self._segment(slide_label(slide), slide, work, identity, progress)
        return replace(found, settings=settings)

    def plan(self, slide: SlideLike, where: str | Path = "slide") -> tuple[Plan, TissueMap]:
        """The windows over a slide and where its tissue is, before the network sees anything.

        Raises
        ------
        InputError
            See `segment`.
        """
        scale = self._require_scale(slide, where)
        reader = slide.at(self._predictor.mpp)
        return self._plan(reader.size_px), make_overview(slide, scale, reader.zoom).tissue

    def _segment(
        self,
        name: str,
        slide: SlideLike,
        work: Path | None,
        identity: Mapping[str, Any] | None,
        progress: Progress,
    ) -> Segmentation:
        scale = self._require_scale(slide, name)
        if slide.plain:
            return self._picture(name, slide, scale, progress)
        keep = TemporaryFolder() if work is None else None
        folder = work if keep is None else keep.folder / "work"
        assert folder is not None
        if identity is None:
            identity = fingerprint(slide, self._predictor.mpp) if keep is None else {}
        return self._streamed(name, slide, scale, folder, keep, identity, progress)

    def _picture(self, name: str, slide: SlideLike, scale: float, progress: Progress) -> Segmentation:
        """A picture in memory, labelled at its own size."""
        window = self._window[0]
        size = slide.at(self._predictor.mpp).size_px
        overlap = image_margin(size, self._window, self._settings, self._predictor.stride_px)
        tiling = replace(self._settings, window_px=window, tile_px=None, overlap_px=overlap)
        said = answer_picture(slide, scale, self._predictor, tiling, progress)
        began = perf_counter()
        planes = [np.zeros(size, np.uint8) for size in level_sizes(slide.size_px)]
        objects, too_large = self._objects(
            said.labels, said.confidence, planes[0], scale, said.look, progress
        )
        for upper, lower in itertools.pairwise(planes):
            halve(upper, lower)
        effort = replace(said.effort, objects_s=perf_counter() - began)
        quality = assess_quality(self._card, slide, said.look.tissue, 1.0, said.labels, said.confidence)
        return self._segmentation(
            name, slide, mpp=scale, zoom=1.0, levels=planes, objects=objects, look=said.look, effort=effort,
            quality=with_too_large(quality, too_large), confidence=said.confidence,
        )  # fmt: skip

    def _streamed(
        self,
        name: str,
        slide: SlideLike,
        scale: float,
        folder: Path,
        keep: TemporaryFolder | None,
        identity: Mapping[str, Any],
        progress: Progress,
    ) -> Segmentation:
        """A slide at the model's scale, its finished rows on disk."""
        began = perf_counter()
        reader = slide.at(self._predictor.mpp)
        look = make_overview(slide, scale, reader.zoom)
        tissue_s = perf_counter() - began
        plan, mpp = self._plan(reader.size_px), reader.mpp
        assert mpp is not None
        store = self._store(folder, reader.size_px, plan, scale, identity, keep=keep)
        planes = store.fresh_planes(level_sizes(reader.size_px))
        canvas, labels, confidence = planes[0], store.labels, store.confidence
        effort = fill_store(store, reader, self._predictor, plan, look.tissue, self._settings, progress)
        began = perf_counter()
        with atomic.storage_errors(folder):
            objects, too_large = self._objects(labels, confidence, canvas, mpp, look, progress)
            for upper, lower in itertools.pairwise(planes):
                halve(upper, lower)
        effort = replace(effort, tissue_s=tissue_s, objects_s=perf_counter() - began)
        quality = assess_quality(
            self._card, slide, look.tissue, reader.zoom, labels, confidence, masked=self._settings.tissue_mask
        )
        return self._segmentation(
            name, slide, mpp=mpp, zoom=reader.zoom, levels=planes, objects=objects, look=look, effort=effort,
            quality=with_too_large(quality, too_large),
        )  # fmt: skip

    def _store(
        self,
        folder: Path,
        size_px: tuple[int, int],
        plan: Plan,
        scale: float,
        identity: Mapping[str, Any],
        widest_px: int | None = None,
        keep: object = None,
    ) -> LabelStore:
        """The rows of a slide on disk, begun or taken up."""
        widest = panel_px(plan, self._predictor.num_classes)
        panels = panels_of(size_px[1], min(widest, widest_px) if widest_px else widest)
        return LabelStore(folder, size_px, panels, {**self.identity, **identity, "mpp": scale}, keep)

    def split(
        self, source: Path, *, mpp: float | None, work: Path, identity: Mapping[str, Any], widest_px: int
    ) -> list[int]:
        """Begin a slide so that several processes can `fill` it.

        Parameters
        ----------
        source, mpp, work, identity
            See `segment`.
        widest_px : int
            Width of a panel at the model's scale, at most.

        Returns
        -------
        list of int
            The panels to be filled; none where there is only one, or the slide is a picture, which is
            segmented as a whole.

        Raises
        ------
        InputError, StorageError
            See `segment`.
        """
        with open_slide(source, mpp=mpp) as slide:
            scale = self._require_scale(slide, source.name)
            if slide.plain:
                return []
            size = slide.at(self._predictor.mpp).size_px
            store = self._store(work, size, self._plan(size), scale, identity, widest_px)
        left = [n for n in range(len(store.panels)) if store.rows_done[n] < size[0]]
        return left if len(left) > 1 else []

    def fill(
        self,
        source: Path,
        panel: int,
        *,
        mpp: float | None,
        work: Path,
        identity: Mapping[str, Any],
        progress: Progress = SILENT,
    ) -> None:
        """Label one panel of a slide that was `split`; `segment` goes on from there.

        Parameters
        ----------
        source, mpp, work, identity, progress
            See `segment`.
        panel : int

        Raises
        ------
        InputError, StorageError
            See `segment`.
        """
        with open_slide(source, mpp=mpp, progress=progress) as slide:
            scale = self._require_scale(slide, source.name)
            reader = slide.at(self._predictor.mpp)
            plan = self._plan(reader.size_px)
            store = self._store(work, reader.size_px, plan, scale, identity)
            look = make_overview(slide, scale, reader.zoom)
            fill_store(
                store, reader, self._predictor, plan, look.tissue, self._settings, progress, panel,
            )  # fmt: skip

    def _objects(
        self, labels: Any, confidence: Any, canvas: Any, mpp: float, look: SlideOverview, progress: Progress
    ) -> tuple[tuple[FoundObject, ...], int]:
        rules = ShapingRules(**self._card.objects.model_dump())
        glass = look.tissue.glass if self._settings.tissue_mask else None
        progress.start("objects", None)
        return paint_objects(
            labels, confidence, canvas, self._predictor.num_classes, mpp, rules, glass, progress
        )

    def _segmentation(
        self,
        name: str,
        slide: SlideLike,
        *,
        mpp: float,
        zoom: float,
        levels: Sequence[Any],
        objects: tuple[FoundObject, ...],
        look: SlideOverview,
        effort: Timing,
        quality: QualityFlags,
        confidence: UInt8 | None = None,
    ) -> Segmentation:
        assert slide.mpp is not None
        return Segmentation(
            name=slide_name(name),
            kind=slide.kind,
            size_px=slide.size_px,
            mpp_l0=slide.mpp,
            mpp_source=slide.mpp_source or "given",
            mpp=mpp,
            zoom=zoom,
            palette=self._card.palette(),
            levels=levels,
            objects=objects,
            tissue=look.tissue,
            overview=look.overview,
            overview_zoom=look.overview_zoom,
            effort=effort,
            quality=quality,
            model=",".join(sorted(self._card.sha256.values())),
            confidence=confidence,
        )

    def _plan(self, size_px: tuple[int, int]) -> Plan:
        return slide_plan(size_px, *self._window, self._predictor.stride_px)

    def _require_scale(self, slide: SlideLike, where: str | Path) -> float:
        if self._predictor.mpp is None:
            raise UsageError(
                "model", "expected a model that knows its micrometres per pixel, got one without [model] mpp"
            )
        if slide.mpp is None:
            raise InputError(
                where,
                "expected micrometres per pixel in the file, found none",
                "give --mpp: 20x is usually about 0.5, 40x about 0.25",
            )
        coarsest = self._card.mpp_range[1] if self._card.mpp_range else self._predictor.mpp
        if slide.mpp > _COARSER * coarsest and not self._settings.force:
            raise InputError(
                where,
                f"expected at most {_COARSER * coarsest:.3g} µm per pixel, twice the coarsest that the model "
                f"was trained on, got {slide.mpp:.3g}",
                "--force segments it all the same",
            )
        return slide.mpp


def with_too_large(flags: QualityFlags, regions: int) -> QualityFlags:
    """Add a warning where regions were too large to become objects."""
    if not regions:
        return flags
    what = f"{regions} region{'s' if regions > 1 else ''} of more than {LARGEST_PX / 1e6:.0f} million pixels"
    text = f"size: {what}, kept in the mask without outline and measurements"
    return replace(flags, warnings=(*flags.warnings, text))


def _of_file(card: ModelCard, name: str) -> ModelCard:
    """The card with the digest of that file only which computes: others beside it decide nothing."""
    return card.model_copy(update={"sha256": {name: card.sha256[name]}})
