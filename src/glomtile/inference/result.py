"""Segmentation results and their files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely import affinity

from glomtile.inference.quality_control import QualityFlags
from glomtile.io.atomic import write_text
from glomtile.io.geojson import Annotation, write_annotations
from glomtile.io.images import draw_overlay, write_jpeg, write_png
from glomtile.io.masks import write_mask
from glomtile.io.pyramids import write_label_zarr, write_mask_pyramid
from glomtile.objects.extraction import FoundObject
from glomtile.palette import Palette
from glomtile.slides.tissue import TissueMap
from glomtile.types import Box, UInt8, crop
from glomtile.validation import path_argument

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
            areas = [found.measures.area_um2 for found in self.objects_of(entry.number)]
            name = entry.name
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
        paths = output_paths(out, self.name, self.small, zarr)
        if self.small:
            height, width = self.levels[0].shape
            write_mask(paths["mask"], crop(self.labels, Box(0, 0, height, width)), self.palette, self.mpp)
        else:
            write_mask_pyramid(
                paths["mask"], self.levels, self.palette, self.mpp, name=self.name, identity=self.identity
            )
        write_annotations(paths["geojson"], self._annotations(), identity=self.identity)
        write_text(paths["objects"], self._table())
        write_png(paths["tissue"], np.where(self.tissue.tissue, 255, 0).astype(np.uint8), self.tissue.mpp)
        outlines = ((polygon, self._colour(found)) for found, polygon in self._in_full_resolution())
        write_jpeg(paths["overlay"], draw_overlay(self.overview, self.overview_zoom, outlines))
        if zarr:
            write_label_zarr(paths["zarr"], self.levels, self.palette, self.mpp, self.name)
        return list(paths.values())

    @property
    def small(self) -> bool:
        """True if the mask is written as PNG."""
        return bool(max(*self.size_px, *self.levels[0].shape) <= SMALL_PX)

    def _in_full_resolution(self) -> Iterator[tuple[FoundObject, shapely.Polygon]]:
        for found in self.objects:
            yield found, affinity.scale(found.polygon, self.zoom, self.zoom, origin=(0, 0))

    def _colour(self, found: FoundObject) -> tuple[int, int, int]:
        return next(entry.rgb for entry in self.palette.classes if entry.number == found.class_number)

    def _name(self, found: FoundObject) -> str:
        return next(entry.name for entry in self.palette.classes if entry.number == found.class_number)

    def _annotations(self) -> Iterator[Annotation]:
        for found, polygon in self._in_full_resolution():
            values = {shown: float(getattr(found.measures, key)) for key, shown in MEASUREMENTS.items()}
            yield Annotation(polygon, self._name(found), self._colour(found), values)

    def _table(self) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, found in enumerate(self.objects, 1):
            measures = found.measures
            places = measures.centroid_x_px * self.zoom, measures.centroid_y_px * self.zoom
            values = [getattr(measures, key) for key in MEASUREMENTS]
            writer.writerow([number, self._name(found), *map(_shown, places), *map(_shown, values)])
        return buffer.getvalue()


def output_paths(out: Path, name: str, small: bool, zarr: bool = False) -> dict[str, Path]:
    """Return the paths of the outputs of one slide, by kind."""
    paths = {
        "mask": out / "masks" / f"{name}{'.png' if small else '.ome.tif'}",
        "geojson": out / "geojson" / f"{name}.geojson",
        "objects": out / "objects" / f"{name}.csv",
        "overlay": out / "overlays" / f"{name}.jpg",
        "tissue": out / "tissue" / f"{name}.png",
    }
    if zarr:
        paths["zarr"] = out / "zarr" / f"{name}.ome.zarr"
    return paths


def _shown(value: float | bool) -> str:
    """Format with six digits, enough for any measure and the same on every machine."""
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    return "" if not np.isfinite(value) else f"{value:.6g}"
