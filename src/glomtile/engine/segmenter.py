"""From a model folder and a slide or picture to labels and measured objects: the one path that all share."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from glomtile.config.card import ModelCard
from glomtile.core.extract import FoundObject, found_objects
from glomtile.core.grid import Plan, Span, Window
from glomtile.core.regions import Region, Regions
from glomtile.core.shaping import ShapingRules
from glomtile.core.tissuemap import TissueMap
from glomtile.engine.pictures import Tiling, choose_class, resized_probs, segment_image
from glomtile.engine.segmentation import Effort, Segmentation
from glomtile.engine.slidelook import Look, SlideLike, look_at
from glomtile.engine.tiled import predict_tiled
from glomtile.engine.windows import Settings, chosen_window, panel_px, slide_plan
from glomtile.errors import InputError, UsageError
from glomtile.files import workspace
from glomtile.files.labelstore import CachedPlane, LabelStore, crop, panels_of
from glomtile.files.pyramid import halve, level_sizes
from glomtile.files.slides import open_slide, slide_name
from glomtile.types import SILENT, Box, Float32, Predictor, Progress, Reader, UInt8

_COARSER = 2.0
"""How many times coarser than anything seen in training a slide may be."""

_BLOCK_PX = 512
_SURELY_BACKGROUND = np.float32(1 - 0.4 / 255)
"""From here on no other class is the likelier, and confidence rounds to 0."""


class Segmenter:
    """A trained model, ready for any number of slides.

    Parameters
    ----------
    predictor : Predictor
        Must know its scale.
    card : ModelCard
        Of the same model: classes, scales, and how objects are made of labels.
    settings : Settings
    """

    def __init__(self, predictor: Predictor, card: ModelCard, settings: Settings | None = None) -> None:
        self._predictor = predictor
        self._card = card
        self._settings = settings or Settings()
        self._window = chosen_window(predictor, card, self._settings)

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        settings: Settings | None = None,
        tta: Any = None,
        *,
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
        runtime : {"auto", "openvino", "keras"}
            What computes the network: the exported file with OpenVINO where the folder has one, else Keras.

        Raises
        ------
        ModelError
            The folder is no model, or damaged, or has no file for the runtime.
        UsageError
            `tta` or `runtime` is unknown.
        MissingExtraError
            The runtime is not installed.
        """
        from glomtile.engine import modelfolder
        from glomtile.engine.runtime import OpenVinoPredictor, chosen_runtime

        place = modelfolder.model_folder(folder)
        card = modelfolder.read_card(place)
        if tta is not None:
            card = card.model_copy(update={"tta": tta})
        if chosen_runtime(card, runtime, place) == "openvino":
            assert card.runtime is not None
            return cls(OpenVinoPredictor(place, card), _of_file(card, card.runtime.name), settings)
        from glomtile.engine.predictor import KerasPredictor

        loaded = modelfolder.load_model_folder(place)
        predictor = KerasPredictor(
            loaded.model, loaded.geometry, card.mpp, tta=card.tta, color_order=card.color_order
        )
        return cls(predictor, _of_file(card, modelfolder.NETWORK), settings)

    @property
    def card(self) -> ModelCard:
        """What the model says of itself."""
        return self._card

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the pixels besides the slide, as JSON has it."""
        return {
            "model": self._card.sha256,
            "runtime": getattr(self._predictor, "runtime", None),
            "precision": getattr(self._predictor, "precision", None),
            "tta": self._card.tta,
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
        mpp : float, optional
            Micrometres per pixel at full resolution, in place of what the file says.
        work : Path, optional
            Folder for unfinished rows: the same call goes on from those that an earlier one left there.
            Left out, a temporary one that lives as long as the result.
        identity : mapping, optional
            What tells the slide from others; rows of another one in `work` are not taken up.
        progress : Progress

        Returns
        -------
        Segmentation

        Raises
        ------
        InputError
            The slide cannot be read, has no scale, or is much too coarse for the model.
        StorageError
            Rows cannot be written.
        """
        if isinstance(source, (str, Path)):
            with open_slide(Path(source), mpp=mpp, progress=progress) as slide:
                return self._segment(Path(source).name, slide, work, identity or {}, progress)
        return self._segment("slide", source, work, identity or {}, progress)

    def plan(self, slide: SlideLike, where: str | Path = "slide") -> tuple[Plan, TissueMap]:
        """The windows over a slide and where its tissue is, before the network sees anything.

        Raises
        ------
        InputError
            See `segment`.
        """
        scale = self._require_scale(slide, where)
        reader = slide.at(self._predictor.mpp)
        return self._plan(reader.size_px), look_at(slide, scale, reader.zoom).tissue

    def _segment(
        self,
        name: str,
        slide: SlideLike,
        work: Path | None,
        identity: Mapping[str, Any],
        progress: Progress,
    ) -> Segmentation:
        scale = self._require_scale(slide, name)
        keep = _Scratch() if work is None else None
        folder = work if keep is None else keep.folder / "work"
        assert folder is not None
        plane = (
            self._plain(slide, scale, progress)
            if slide.plain
            else self._streamed(slide, scale, folder, identity, progress)
        )
        if self._settings.tissue_mask and not slide.plain and not plane.look.tissue.tissue.any():
            progress.warn(f"{name}: no tissue found; --no-tissue-mask looks everywhere")
        began = perf_counter()
        planes = plane.planes(level_sizes(plane.size_px))
        with workspace.storage_errors(folder):
            canvas = planes[0] if slide.plain else CachedPlane(planes[0])
            objects = tuple(self._objects(plane, canvas, progress))
            if isinstance(canvas, CachedPlane):
                canvas.flush()
            for upper, lower in itertools.pairwise(planes):
                halve(upper, lower)
        effort = Effort(**{**vars(plane.effort), "objects_s": perf_counter() - began})
        return Segmentation(
            name=slide_name(name),
            kind=slide.kind,
            size_px=slide.size_px,
            mpp_l0=scale,
            mpp_source=slide.mpp_source or "given",
            mpp=plane.mpp,
            zoom=plane.zoom,
            palette=self._card.palette(),
            levels=planes,
            objects=objects,
            tissue=plane.look.tissue,
            overview=plane.look.overview,
            overview_zoom=plane.look.overview_zoom,
            effort=effort,
            model=",".join(sorted(self._card.sha256.values())),
            keep=keep,
        )

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

    def _plain(self, slide: SlideLike, scale: float, progress: Progress) -> _Plane:
        """A picture in memory, labelled at its own size."""
        began = perf_counter()
        height, width = slide.size_px
        look = look_at(slide, scale, 1.0)
        tissue_s = perf_counter() - began
        image = slide.at(scale).read(Box(0, 0, height, width))
        tiling = self._tiling()
        seen = segment_image(image, self._predictor, tiling, scale, keep_probs=True, progress=progress)
        assert seen.probs is not None
        confidence = np.empty(slide.size_px, np.uint8)
        for top, rows in resized_probs(seen.probs, slide.size_px):
            confidence[top : top + rows.shape[0]] = as_confidence(rows)
        effort = Effort(seen.run.windows, seen.run.skipped, seen.run.network_s, seen.run.wall_s, tissue_s)
        return _Plane(seen.labels, confidence, scale, 1.0, look, effort, _planes_in_memory)

    def _streamed(
        self,
        slide: SlideLike,
        scale: float,
        folder: Path,
        identity: Mapping[str, Any],
        progress: Progress,
    ) -> _Plane:
        """A slide at the model's scale, its finished rows on disk."""
        began = perf_counter()
        reader = slide.at(self._predictor.mpp)
        look = look_at(slide, scale, reader.zoom)
        tissue_s = perf_counter() - began
        plan = self._plan(reader.size_px)
        panels = panels_of(reader.size_px[1], panel_px(plan, self._predictor.num_classes))
        store = LabelStore(folder, reader.size_px, panels, {**self.identity, **identity, "mpp": scale})
        effort = self._fill(store, reader, plan, panels, look.tissue, progress)
        mpp = reader.mpp
        assert mpp is not None
        return _Plane(
            CachedPlane(store.labels),
            CachedPlane(store.confidence),
            mpp,
            reader.zoom,
            look,
            Effort(**{**vars(effort), "tissue_s": tissue_s}),
            store.fresh_planes,
        )

    def _fill(
        self,
        store: LabelStore,
        reader: Reader,
        plan: Plan,
        panels: Sequence[tuple[int, int]],
        tissue: TissueMap,
        progress: Progress,
    ) -> Effort:
        def is_glass(window: Window) -> bool:
            return not tissue.near_tissue(window.own)

        total = Effort()
        for number, (left, right) in enumerate(panels):
            done = store.rows_done(number)
            if done == reader.size_px[0]:
                continue
            writer = store.writer(number)

            def take(top: int, probs: Float32, writer: Any = writer) -> None:
                writer(top, *classes_and_confidence(probs))

            run = predict_tiled(
                reader,
                self._predictor,
                plan,
                take,
                batch_size=self._settings.batch_size,
                read_threads=self._settings.read_threads,
                skip=is_glass if self._settings.tissue_mask else None,
                panel=Span(left, right),
                from_row_px=done,
                progress=progress,
            )
            total = Effort(
                total.windows + run.windows,
                total.skipped + run.skipped,
                total.network_s + run.network_s,
                total.tiled_s + run.wall_s,
            )
        return total

    def _tiling(self) -> Tiling:
        window, overlap = self._window
        return Tiling(window - 2 * overlap, overlap, batch_size=self._settings.batch_size)

    def _plan(self, size_px: tuple[int, int]) -> Plan:
        return slide_plan(size_px, *self._window, self._predictor.stride_px)

    def _objects(self, plane: _Plane, target: Any, progress: Progress) -> Iterator[FoundObject]:
        """The objects in reading order, each painted into `target`."""
        regions = list(_regions(plane, self._predictor.num_classes))
        progress.start("objects", None)
        glass = plane.look.tissue.glass if self._settings.tissue_mask else None
        rules = self._rules()
        for found in found_objects(
            plane.labels, plane.confidence, regions, plane.mpp, rules, plane.size_px, glass
        ):
            _paint(found, target)
            progress.advance(1)
            yield FoundObject(
                found.class_number,
                found.box,
                np.zeros((0, 0), np.bool_),
                found.polygon,
                found.measures,
                found.reduced_by,
            )

    def _rules(self) -> ShapingRules:
        return ShapingRules(**self._card.objects.model_dump())


def _of_file(card: ModelCard, name: str) -> ModelCard:
    """The card with the digest of that file only which computes: others beside it decide nothing."""
    return card.model_copy(update={"sha256": {name: card.sha256[name]}})


class _Scratch:
    """A temporary folder that goes when nobody holds this any more, or the process ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glomtile-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Plane:
    """What the network said of every pixel, in memory or on disk, and what goes with it."""

    labels: Any
    confidence: Any
    mpp: float
    zoom: float
    look: Look
    effort: Effort
    planes: Any

    @property
    def size_px(self) -> tuple[int, int]:
        return int(self.labels.shape[0]), int(self.labels.shape[1])


def as_confidence(probs: Float32) -> UInt8:
    """How probable the most probable class above 0 is, 0 to 255.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray

    Returns
    -------
    (h, w) uint8 ndarray
    """
    best = probs[..., 1]
    for number in range(2, probs.shape[-1]):
        best = np.maximum(best, probs[..., number])
    return np.asarray(np.rint(best * np.float32(255)), np.uint8)


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


def _planes_in_memory(sizes_px: Sequence[tuple[int, int]]) -> list[UInt8]:
    return [np.zeros(size, np.uint8) for size in sizes_px]


def _regions(plane: _Plane, num_classes: int) -> Iterator[Region]:
    height, width = plane.size_px
    regions = Regions(width, num_classes)
    for top in range(0, height, 512):
        yield from regions.add(plane.labels[top : min(top + 512, height), 0:width])
    yield from regions.finish()


def _paint(found: FoundObject, target: Any) -> None:
    box, mask = found.box, found.mask
    if found.reduced_by > 1:
        mask = mask.repeat(found.reduced_by, axis=0).repeat(found.reduced_by, axis=1)
        mask = mask[: box.height, : box.width]
    pixels = crop(target, box).copy()
    pixels[mask] = found.class_number
    target[box.top : box.bottom, box.left : box.right] = pixels
