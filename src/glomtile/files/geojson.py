"""How outlines go to QuPath as GeoJSON; `glomtile.files.geojson_reader` brings them back."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.core.palette import RGB
from glomtile.errors import InputError
from glomtile.files.workspace import atomic_write

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

_DECIMALS = 2
_GRID = 10.0**-_DECIMALS
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "glomtile/annotation")


@dataclass(frozen=True)
class Annotation:
    """One outline with what is known of it.

    Parameters
    ----------
    polygon : shapely Polygon or MultiPolygon
        x and y in full-resolution pixels, pixel corners at integers.
    name : str, optional
        Its classification; QuPath's derived classes are written ``"Tumor: Positive"``.
    rgb : (int, int, int), optional
        The classification's colour.
    measurements : mapping of str to float
        Shown by QuPath in its tables.
    object_type : str
        QuPath's kind of object: ``annotation``, ``detection``, …
    id : str
        A UUID; where it is empty `write_annotations` makes one.
    """

    polygon: Polygon | MultiPolygon
    name: str | None = None
    rgb: RGB | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    object_type: str = "annotation"
    id: str = ""


def annotation_id(identity: str, number: int) -> str:
    """The UUID of the annotation of that number among those of `identity`, the same every time."""
    return str(uuid.uuid5(_NAMESPACE, f"{identity}#{number}"))


def write_annotations(path: Path, annotations: Iterable[Annotation], *, identity: str) -> int:
    """Write a FeatureCollection as QuPath 0.4 and later read it, whole or not at all.

    Parameters
    ----------
    path : Path
        Usually ``<stem>.geojson``.
    annotations : iterable of Annotation
        Taken one by one; never all in memory. Measurements that are not finite are left out.
    identity : str
        What the annotations come from; ids follow from it and their number.

    Returns
    -------
    int
        How many were written. An outline that vanishes at two decimals of a pixel is not.

    Raises
    ------
    InputError
        A polygon holds a coordinate that is not finite; it names the annotation's number, from 1.
    StorageError
        The file cannot be written.

    Notes
    -----
    Coordinates have two decimals. Where rounding makes an outline cross itself, it is snapped to that
    grid as a whole instead. Rings are closed, exteriors run counter-clockwise (RFC 7946, section 3.1.6).
    """
    written = 0
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, annotation in enumerate(annotations, 1):
            feature = _feature(annotation, annotation.id or annotation_id(identity, number), path, number)
            if feature is None:
                continue
            stream.write(",\n" if written else "\n")
            stream.write(json.dumps(feature, ensure_ascii=False, allow_nan=False))
            written += 1
        stream.write("\n]}\n")
    return written


def _feature(annotation: Annotation, uid: str, path: Path, number: int) -> dict[str, Any] | None:
    import shapely

    if not np.isfinite(shapely.get_coordinates(annotation.polygon)).all():
        raise InputError(path, f"annotation {number}: expected finite coordinates, got NaN or infinity")
    polygon = _rounded(annotation.polygon)
    if polygon is None:
        return None
    properties: dict[str, Any] = {"objectType": annotation.object_type}
    if annotation.name is not None:
        properties["classification"] = {"name": annotation.name}
        if annotation.rgb is not None:
            properties["classification"]["color"] = [int(part) for part in annotation.rgb]
    finite = {key: float(value) for key, value in annotation.measurements.items() if math.isfinite(value)}
    if finite:
        properties["measurements"] = finite
    return {"type": "Feature", "id": uid, "geometry": _geometry(polygon), "properties": properties}


def _rounded(polygon: Polygon | MultiPolygon) -> Polygon | MultiPolygon | None:
    """At two decimals, valid and with an area; ``None`` where nothing is left."""
    import shapely

    plain = shapely.transform(polygon, _to_grid)
    if plain.is_valid and plain.area > 0:
        return plain
    # Snapping cuts anew where lines come to cross, so that a second rounding moves nothing.
    snapped = shapely.transform(shapely.set_precision(shapely.make_valid(polygon), _GRID), _to_grid)
    kept = polygons_of(snapped if snapped.is_valid else shapely.make_valid(snapped))
    if kept is None or kept.is_valid:
        return kept
    raise InputError("geojson", f"expected a polygon that can be rounded, got {polygon.wkt[:200]}")


def _to_grid(places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(places, _DECIMALS) + 0.0  # adding 0 turns -0.0 into 0.0


def polygons_of(shape: Any) -> Polygon | MultiPolygon | None:
    """The polygons with an area of any geometry, as one; ``None`` where there are none."""
    import shapely

    parts = [
        part
        for piece in shapely.get_parts(shape)
        for part in shapely.get_parts(piece)
        if part.geom_type == "Polygon" and part.area > 0
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _geometry(polygon: Polygon | MultiPolygon) -> dict[str, Any]:
    import shapely
    from shapely.geometry.polygon import orient

    rings = [
        [shapely.get_coordinates(ring).tolist() for ring in (part.exterior, *part.interiors)]
        for part in (orient(part, 1.0) for part in shapely.get_parts(polygon))
    ]
    single = polygon.geom_type == "Polygon"
    return {"type": polygon.geom_type, "coordinates": rings[0] if single else rings}
