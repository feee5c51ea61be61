"""Segmenter: a model applied to images and slides, and its results."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
from shapely import affinity

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, InputError, UsageError
from glomtile.inference.image import (
    TilingSettings,
    as_confidence,
    choose_class,
    choose_window,
    image_margin,
    resized_probs,
    segment_image,
    slide_plan,
)
from glomtile.inference.predictor import KerasPredictor, PredictionSettings, override_settings
from glomtile.inference.quality_control import QualityFlags, assess_quality
from glomtile.io.atomic import TemporaryFolder, storage_errors, write_text
from glomtile.io.geojson import Annotation, write_annotations
from glomtile.io.images import PLAUSIBLE_MPP, draw_overlay, write_jpeg, write_png
from glomtile.io.masks import write_mask
from glomtile.io.pyramids import halve, level_sizes, write_label_zarr, write_mask_pyramid
from glomtile.models import folder as model_folder
from glomtile.objects.extraction import FoundObject, paint_objects
from glomtile.objects.postprocessing import ShapingRules
from glomtile.palette import Palette
from glomtile.slides.slide import Slide, open_slide, slide_name
from glomtile.slides.tissue import SlideLike, TissueMap, make_overview
from glomtile.tiling.grid import Plan, Span
from glomtile.tiling.sliding_window import predict_tiled
from glomtile.types import SILENT, Box, Float32, Predictor, Progress, Reader, UInt8, crop
from glomtile.validation import number_argument, path_argument, typed_argument

SMALL_PX = 4096
"""Masks of images of at most this many pixels a side are PNG, larger ones OME-TIFF."""

MEASUREMENTS = {
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
    "equivalent_diameter_um": "Equivalent diameter µm",
    "feret_max_um": "Max diameter µm",
    "feret_min_um": "Min diameter µm",
    "circularity": "Circularity",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "mean_probability": "Mean probability",
    "min_probability": "Min probability",
    "touches_border": "Touches border",
    "touches_tissue_edge": "Touches tissue edge",
}
"""Fields of an object's measures, and their names in QuPath's tables."""

COLUMNS = ("id", "class", "centroid_x_px", "centroid_y_px", *MEASUREMENTS)
"""Columns of ``objects/<stem>.csv``; centroids in full-resolution pixels."""


@dataclass(frozen=True)
class Timing:
    """Seconds spent on one slide; of a continued run only its own.

    Attributes
    ----------
    windows, skipped : int
        Windows of this run, and how many of them were skipped as glass.
    network_s, tiled_s, tissue_s, objects_s : float
        Seconds inside the network, in the whole tiled run, for the tissue mask, for the objects.
    """

    windows: int = 0
    skipped: int = 0
    network_s: float = 0.0
    tiled_s: float = 0.0
    tissue_s: float = 0.0
    objects_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Result of one slide or image.

    Attributes
    ----------
    name : str
        The file's stem.
    kind : str
        Kind of file.
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    mpp_l0 : float
        Micrometres per pixel there.
    mpp_source : str
        Source of that figure.
    mpp, zoom : float
        Micrometres and full-resolution pixels per pixel of `labels`.
    palette : Palette
    levels : sequence of (H, W) uint8 planes
        Class numbers of the kept objects' pixels, each level half the size of the last. A slide's are on
        disk, in a temporary folder that goes with the last of them, or in the `work` of `Segmenter.segment`.
    objects : tuple of FoundObject
        Without their masks' pixels; in the plane of `labels`.
    tissue : TissueMap
    overview : (h, w, 3) uint8 ndarray
        The slide at low resolution.
    overview_zoom : float
        Full-resolution pixels per pixel of the overview.
    effort : Timing
    quality : QualityFlags
        Distance of the image from the training images, and confidence of the network.
    model : str
        Digest of the model's weights.
    settings : str
        Digest of everything else that determines the pixels, and of the given identity.
    confidence : (H, W) uint8 ndarray or None
        Of an image: the probability of the most probable class above 0, 0 to 255. A slide's is not kept.
    """

    name: str
    kind: str
    size_px: tuple[int, int]
    mpp_l0: float
    mpp_source: str
    mpp: float
    zoom: float
    palette: Palette
    levels: Sequence[Any]
    objects: tuple[FoundObject, ...]
    tissue: TissueMap
    overview: UInt8
    overview_zoom: float
    effort: Timing
    quality: QualityFlags = field(default_factory=QualityFlags)
    model: str = ""
    settings: str = ""
    confidence: UInt8 | None = field(default=None, repr=False)

    @property
    def labels(self) -> Any:
        """``(H, W) uint8`` plane at `mpp`; slice it to have an array, which needs no file any more."""
        return self.levels[0]

    @property
    def identity(self) -> str:
        """Source of the objects' ids and the mask's UUID: no clock and no machine."""
        return "|".join(map(str, (self.name, self.size_px, self.mpp_l0, self.mpp, self.model, self.settings)))

    def objects_of(self, class_number: int) -> list[FoundObject]:
        """Return the objects of one class."""
        return [found for found in self.objects if found.class_number == class_number]

    def figures(self) -> dict[str, float | int | str]:
        """Return the row of ``summary.csv``: size, scale, tissue; objects by class; quality flags."""
        row: dict[str, float | int | str] = {
            "image": self.name,
            "kind": self.kind,
            "width_px": self.size_px[1],
            "height_px": self.size_px[0],
            "mpp": _shown(self.mpp_l0),
            "mpp_source": self.mpp_source,
            "tissue_mm2": _shown(self.tissue.area_mm2),
        }
        for entry in self.palette.classes[1:]:
            name, areas = entry.name, [one.measures.area_um2 for one in self.objects_of(entry.number)]
            row[f"{name}_count"] = len(areas)
            row[f"{name}_mean_area_um2"] = _shown(float(np.mean(areas))) if areas else ""
            row[f"{name}_total_area_mm2"] = _shown(sum(areas) / 1e6)
            density = len(areas) / self.tissue.area_mm2 if self.tissue.area_mm2 else 0.0
            row[f"{name}_per_mm2"] = _shown(density) if self.tissue.area_mm2 else ""
        return row | self.quality.figures()

    def save(self, out: str | Path, *, zarr: bool = False) -> list[Path]:
        """Write mask, GeoJSON, table, overlay and tissue mask, a folder for each kind.

        Parameters
        ----------
        out : path
            See docs/outputs.md for its files; those of the same names are replaced.
        zarr : bool
            Also write the mask as OME-Zarr.

        Returns
        -------
        list of Path
            What was written.

        Raises
        ------
        ArgumentError
            `out` is no path.
        StorageError
            Something cannot be written; every file that stands is whole.
        """
        out = path_argument("out", out)
        small = max(*self.size_px, *self.levels[0].shape) <= SMALL_PX
        mask = out / "masks" / f"{self.name}{'.png' if small else '.ome.tif'}"
        geojson, table = out / "geojson" / f"{self.name}.geojson", out / "objects" / f"{self.name}.csv"
        overlay, tissue = out / "overlays" / f"{self.name}.jpg", out / "tissue" / f"{self.name}.png"
        if small:
            height, width = self.levels[0].shape
            write_mask(mask, crop(self.labels, Box(0, 0, height, width)), self.palette, self.mpp)
        else:
            write_mask_pyramid(
                mask, self.levels, self.palette, self.mpp, name=self.name, identity=self.identity
            )
        entries = {entry.number: entry for entry in self.palette.classes}
        zooms = self.zoom, self.zoom
        objects = [
            (found, entries[found.class_number], affinity.scale(found.polygon, *zooms, origin=(0, 0)))
            for found in self.objects
        ]
        annotations = (
            Annotation(
                polygon, entry.name, entry.rgb,
                {shown: float(getattr(found.measures, key)) for key, shown in MEASUREMENTS.items()},
            )
            for found, entry, polygon in objects
        )  # fmt: skip
        write_annotations(geojson, annotations, identity=self.identity)
        rows = [COLUMNS]
        for number, (found, entry, _) in enumerate(objects, 1):
            measures = found.measures
            places = measures.centroid_x_px * self.zoom, measures.centroid_y_px * self.zoom
            values = [getattr(measures, key) for key in MEASUREMENTS]
            rows.append((str(number), entry.name, *map(_shown, places), *map(_shown, values)))
        csv.writer(text := io.StringIO(), lineterminator="\n").writerows(rows)
        write_text(table, text.getvalue())
        write_png(tissue, np.where(self.tissue.tissue, 255, 0).astype(np.uint8), self.tissue.mpp)
        outlines = ((polygon, entry.rgb) for _, entry, polygon in objects)
        write_jpeg(overlay, draw_overlay(self.overview, self.overview_zoom, outlines))
        paths = [mask, geojson, table, overlay, tissue]
        if zarr:
            paths.append(out / "zarr" / f"{self.name}.ome.zarr")
            write_label_zarr(paths[-1], self.levels, self.palette, self.mpp, self.name)
        return paths


def _shown(value: float | bool) -> str:
    """Format with six digits, enough for any measure and the same on every machine."""
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    return "" if not np.isfinite(value) else f"{value:.6g}"


_COARSER = 2.0
"""Limit of a slide's resolution, as a multiple of the coarsest in training."""

_STRIP_BYTES = 400 * 2**20
"""Memory for the rows being blended, which limits the width of a panel."""

_BLOCK_PX = 512
_SURELY_BACKGROUND = np.float32(1 - 0.4 / 255)
"""From this background probability on no other class is more probable, and confidence rounds to 0."""

_SAME_MPP = 1e-6
_READ_PX = 16 * 2**20
"""Pixels that are read at once for a digest of all."""


_Planes = tuple[Any, Any, Sequence[Any], Timing]
"""Labels, confidence, and empty levels for the objects."""


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
        from glomtile.inference.predictor import OpenVinoPredictor, chosen_runtime

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
            path = getattr(slide, "path", None)
            name = Path(path).name if isinstance(path, str | PathLike) else "slide"
            deciding = {**(identity or {}), **self.identity}
            # Ids do not depend on the window where pixels do not; an image's margin depends on it.
            local = getattr(self._predictor, "local", True)
            if not slide.plain and local and self._window[1] >= self._predictor.context_px:
                del deciding["window_px"]
            try:
                digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
            except (TypeError, ValueError) as problem:
                raise ArgumentError("identity", "a mapping that JSON can hold", deciding) from problem
            scale = self._require_scale(slide, name)
            started = perf_counter()
            reader = slide.at(self._predictor.mpp)
            # An image is labelled at its own size, a slide at the model's scale.
            mpp, zoom = (scale, 1.0) if slide.plain else (reader.mpp, reader.zoom)
            assert slide.mpp is not None
            assert mpp is not None
            overview = make_overview(slide, scale, zoom)
            tissue_s = perf_counter() - started
            errors: AbstractContextManager[None] = nullcontext()
            if slide.plain:
                labels, confidence, levels, timing = self._label_image(slide, scale, progress)
            else:
                keep = None
                if work is None:
                    keep = TemporaryFolder()
                    work = keep.folder / "work"
                elif identity is None:
                    identity = fingerprint(slide, self._predictor.mpp)
                facts = {**self.identity, **(identity or {}), "mpp": scale}
                labels, confidence, levels, timing = self._label_slide(
                    reader, overview.tissue, work, facts, keep, progress
                )
                errors = storage_errors(work)
            with errors:
                started = perf_counter()
                progress.start("objects", None)
                masked = self.settings.tissue_mask
                objects, too_large = paint_objects(
                    labels, confidence, levels[0], self._predictor.num_classes, mpp,
                    ShapingRules(**self.card.objects.model_dump()),
                    overview.tissue.glass if masked else None, progress,
                )  # fmt: skip
                for upper, lower in itertools.pairwise(levels):
                    halve(upper, lower)
                timing = replace(timing, tissue_s=tissue_s, objects_s=perf_counter() - started)
                quality = assess_quality(
                    self.card, slide, overview.tissue, zoom, labels, confidence,
                    masked=masked and not slide.plain, too_large=too_large,
                )  # fmt: skip
            return Segmentation(
                name=slide_name(name),
                kind=slide.kind,
                size_px=slide.size_px,
                mpp_l0=slide.mpp,
                mpp_source=slide.mpp_source or "given",
                mpp=mpp,
                zoom=zoom,
                palette=self.card.palette(),
                levels=levels,
                objects=objects,
                tissue=overview.tissue,
                overview=overview.overview,
                overview_zoom=overview.overview_zoom,
                effort=timing,
                quality=quality,
                model=",".join(sorted(self.card.sha256.values())),
                settings=digest,
                confidence=confidence if slide.plain else None,
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

    def _label_image(self, slide: SlideLike, scale: float, progress: Progress) -> _Planes:
        """Label an image in memory, at its own size."""
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
        levels = [np.zeros(size, np.uint8) for size in level_sizes(slide.size_px)]
        timing = Timing(seen.run.windows, seen.run.skipped, seen.run.network_s, seen.run.wall_s)
        return seen.labels, confidence, levels, timing

    def _label_slide(
        self,
        reader: Reader,
        tissue: TissueMap,
        folder: Path,
        identity: Mapping[str, Any],
        keep: object,
        progress: Progress,
    ) -> _Planes:
        """Label the missing rows of a slide at the model's scale, panel by panel, on disk."""
        from glomtile.inference.label_store import LabelStore, panels_of

        plan = slide_plan(reader.size_px, *self._window, self._predictor.stride_px)
        # Sums of probabilities, those before them and rows on their way out are alive.
        widest_px = _STRIP_BYTES // (3 * 4 * self._predictor.num_classes * plan.window_px[0])
        panels = panels_of(reader.size_px[1], widest_px)
        store = LabelStore(folder, reader.size_px, panels, identity, keep)
        levels = store.fresh_planes(level_sizes(reader.size_px))
        timing = Timing()
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
            timing = Timing(
                timing.windows + run.windows,
                timing.skipped + run.skipped,
                timing.network_s + run.network_s,
                timing.tiled_s + run.wall_s,
            )
        return store.labels, store.confidence, levels, timing

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
