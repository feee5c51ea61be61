"""Reading and writing of QuPath GeoJSON annotations."""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.io.atomic import atomic_write
from glomtile.palette import RGB
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

_DECIMALS = 2
_GRID = 10.0**-_DECIMALS
_REPAIRED, _EMPTY_RING = "outline that crosses itself", "ring without area"
T = TypeVar("T")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "glomtile/annotation")


@dataclass(frozen=True)
class Annotation:
    """An outline with its classification and measurements.

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
    """Return the UUID of annotation `number` of `identity`, the same every time."""
    return str(uuid.uuid5(_NAMESPACE, f"{identity}#{number}"))


def write_annotations(path: Path, annotations: Iterable[Annotation], *, identity: str) -> int:
    """Write a FeatureCollection for QuPath 0.4 and later, whole or not at all.

    Parameters
    ----------
    path : Path
        Usually ``<stem>.geojson``.
    annotations : iterable of Annotation
        Consumed one by one. Measurements that are not finite are left out.
    identity : str
        Origin of the annotations; their ids are derived from it and their number.

    Returns
    -------
    int
        Number written. An outline that vanishes at two decimals of a pixel is left out.

    Raises
    ------
    InputError
        A polygon has a coordinate that is not finite; annotations are numbered from 1.
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
    import shapely.geometry

    if not np.isfinite(shapely.get_coordinates(annotation.polygon)).all():
        raise InputError(path, f"annotation {number}: expected finite coordinates, got NaN or infinity")
    polygon = _rounded(annotation.polygon)
    if polygon is None:
        return None
    geometry = shapely.geometry.mapping(shapely.orient_polygons(polygon))
    properties: dict[str, Any] = {"objectType": annotation.object_type}
    if annotation.name is not None:
        properties["classification"] = {"name": annotation.name}
        if annotation.rgb is not None:
            properties["classification"]["color"] = [int(part) for part in annotation.rgb]
    finite = {key: float(value) for key, value in annotation.measurements.items() if math.isfinite(value)}
    if finite:
        properties["measurements"] = finite
    return {"type": "Feature", "id": uid, "geometry": geometry, "properties": properties}


def _rounded(polygon: Polygon | MultiPolygon) -> Polygon | MultiPolygon | None:
    """Round to two decimals, valid and with an area; ``None`` where nothing is left."""
    import shapely

    plain = shapely.transform(polygon, _to_grid)
    if plain.is_valid and plain.area > 0:
        return plain
    # Snapping cuts lines where they cross after rounding, so that a second rounding moves nothing.
    snapped = shapely.transform(shapely.set_precision(shapely.make_valid(polygon), _GRID), _to_grid)
    kept = polygons_of(snapped if snapped.is_valid else shapely.make_valid(snapped))
    if kept is None or kept.is_valid:
        return kept
    raise InputError("geojson", f"expected a polygon that can be rounded, got {polygon.wkt[:200]}")


def _to_grid(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(points, _DECIMALS) + 0.0  # adding 0 turns -0.0 into 0.0


def polygons_of(shape: Any) -> Polygon | MultiPolygon | None:
    """Join the polygons with an area in any geometry; ``None`` where there are none."""
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


def read_annotations(path: Path, progress: Progress = SILENT) -> list[Annotation]:
    """Read the polygons of a GeoJSON file as QuPath exports it.

    Parameters
    ----------
    path : Path
        A FeatureCollection, a list of Features or a single Feature, UTF-8.
    progress : Progress
        Receives one warning for each kind of skipped geometry (points, lines, collections, rings without
        area) and of repair (outlines that cross themselves).

    Returns
    -------
    list of Annotation
        In the file's order; every polygon is valid and has an area. Classifications may be text, an
        object with ``name`` or ``names``, and ``color`` or, before QuPath 0.4, a packed ``colorRGB``.

    Raises
    ------
    InputError
        The file is missing, is no GeoJSON, or a feature (numbered from 1) has coordinates that are no finite
        numbers or properties of a wrong type.
    """
    path = Path(path)
    left_out: Counter[str] = Counter()
    annotations = []
    for number, feature in enumerate(_features(path), 1):
        try:
            annotation = _annotation(feature, left_out)
        except _FeatureError as problem:
            raise InputError(path, f"feature {number}: {problem}") from None
        if annotation is not None:
            annotations.append(annotation)
    repaired, empty_rings = left_out.pop(_REPAIRED, 0), left_out.pop(_EMPTY_RING, 0)
    if left_out:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        progress.warn(f"{path}: only polygons are read; skipped: {listed}")
    if repaired:
        progress.warn(f"{path}: {repaired} outlines crossed themselves and were repaired")
    if empty_rings:
        progress.warn(f"{path}: {empty_rings} rings without area were dropped")
    return annotations


class _FeatureError(Exception):
    """``expected …, got …`` of one feature."""


def _features(path: Path) -> list[Any]:
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(path, "expected a GeoJSON file, the file does not exist") from None
    except IsADirectoryError:
        raise InputError(path, "expected a GeoJSON file, got a folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"expected a GeoJSON file that can be read, got: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"expected GeoJSON, got: {error}") from error
    if isinstance(data, list):
        return data
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "FeatureCollection" and isinstance(data.get("features"), list):
        return list(data["features"])
    if kind == "Feature":
        return [data]
    if kind == "GeometryCollection":
        return [{"type": "Feature", "geometry": data}]
    got = f"an object of type {kind!r}" if isinstance(data, dict) else _shorten(data)
    raise InputError(path, f"expected a FeatureCollection, a list of Features or a Feature, got {got}")


def _annotation(feature: Any, left_out: Counter[str]) -> Annotation | None:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        got = f"type {feature.get('type')!r}" if isinstance(feature, dict) else _shorten(feature)
        raise _FeatureError(f'expected an object of type "Feature", got {got}')
    properties = _expect(feature.get("properties"), dict, "properties")
    polygon = _polygon(feature.get("geometry"), left_out)
    if polygon is None:
        return None
    name, rgb = _classification(properties.get("classification"))
    kind = properties.get("objectType", properties.get("object_type", "annotation"))
    return Annotation(
        polygon=polygon,
        name=name,
        rgb=rgb,
        measurements=_measurements(properties.get("measurements")),
        object_type=_expect(kind, str, "objectType"),
        id=str(feature["id"]) if isinstance(feature.get("id"), str | int) else "",
    )


def _polygon(geometry: Any, left_out: Counter[str]) -> Polygon | MultiPolygon | None:
    import shapely

    geometry = _expect(geometry, dict, "geometry")
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        if geometry and not isinstance(kind, str):
            raise _FeatureError(f"expected a type of geometry, got {_shorten(kind)}")
        left_out[kind if isinstance(kind, str) else "feature without a geometry"] += 1
        return None
    coordinates = _expect(geometry.get("coordinates"), list, "coordinates")
    parts = [_part(rings, left_out) for rings in ([coordinates] if kind == "Polygon" else coordinates)]
    drawn = [part for part in parts if part is not None]
    if not drawn:
        return None
    shape = shapely.MultiPolygon(drawn) if kind == "MultiPolygon" else drawn[0]
    if shape.is_valid:
        return shape
    repaired = polygons_of(shapely.make_valid(shape, method="structure", keep_collapsed=False))
    if repaired is None:
        left_out[_EMPTY_RING] += 1
        return None
    left_out[_REPAIRED] += 1
    return repaired


def _part(rings: Any, left_out: Counter[str]) -> Polygon | None:
    """Build one polygon with its holes, or ``None`` where the exterior has no area."""
    import shapely

    exterior, *holes = [_ring(ring) for ring in _expect(rings, list, "a polygon")] or [np.empty((0, 2))]
    full = [hole for hole in holes if _has_area(hole)]
    left_out[_EMPTY_RING] += len(holes) - len(full)
    if not _has_area(exterior):
        left_out[_EMPTY_RING] += 1
        return None
    return shapely.Polygon(exterior, full)


def _ring(points: Any) -> NDArray[np.float64]:
    """Convert a ring to ``(N, 2)``; a third number, a height, is dropped."""
    pairs = [_expect(point, list, "a point")[:2] for point in _expect(points, list, "a ring")]
    for pair in pairs:
        if len(pair) != 2 or not all(_is_number(value) for value in pair):
            raise _FeatureError(f"expected points of two finite numbers, got {_shorten(pair)}")
    return np.array(pairs, np.float64).reshape(-1, 2)


def _has_area(ring: NDArray[np.float64]) -> bool:
    """Return whether three points of a ring, closed or not, are on no common line."""
    points = np.unique(ring, axis=0)
    if len(points) < 3:
        return False
    x, y = (points[1:] - points[0]).T
    return bool((x[0] * y != y[0] * x).any())


def _classification(value: Any) -> tuple[str | None, RGB | None]:
    if value is None or isinstance(value, str):
        return value or None, None
    entry = _expect(value, dict, "classification")
    packed, listed = entry.get("colorRGB"), entry.get("color")
    rgb = _unpack_colour(packed if listed is None else listed)
    if entry.get("names") is not None:
        names = [_expect(name, str, "a name") for name in _expect(entry["names"], list, "names")]
    else:
        names = (
            [] if entry.get("name") is None else [_expect(entry["name"], str, "the classification's name")]
        )
    parent = _classification(entry.get("parentClass"))[0]
    return ": ".join([parent, *names] if parent else names) or None, rgb


def _unpack_colour(colour: Any) -> RGB | None:
    """Convert ``[r, g, b]`` or Java's packed ``0xAARRGGBB``, which may be negative."""
    if colour is None:
        return None
    if isinstance(colour, int) and not isinstance(colour, bool):
        return colour >> 16 & 255, colour >> 8 & 255, colour & 255
    parts = _expect(colour, list, "a colour")
    if len(parts) != 3 or not all(_is_number(part) and 0 <= part <= 255 for part in parts):
        raise _FeatureError(f"expected a colour of three numbers of 0 to 255, got {_shorten(colour)}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _measurements(value: Any) -> dict[str, float]:
    """Convert an object, or a list of names and values as before QuPath 0.4; keep finite values only."""
    if isinstance(value, list):
        entries = [_expect(entry, dict, "a measurement") for entry in value]
        pairs: list[tuple[str, Any]] = [
            (_expect(entry.get("name"), str, "a measurement's name"), entry.get("value")) for entry in entries
        ]
    else:
        pairs = list(_expect(value, dict, "measurements").items())
    return {name: float(number) for name, number in pairs if _is_number(number)}


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _expect(value: Any, kind: type[T], what: str) -> T:
    """Check the type of a value; ``None`` counts as an empty object."""
    if value is None and kind is dict:
        return kind()
    if not isinstance(value, kind):
        name = {"dict": "an object", "list": "a list", "str": "text"}[kind.__name__]
        raise _FeatureError(f"expected {name} for {what}, got {_shorten(value)}")
    return value


def _shorten(value: Any) -> str:
    return json.dumps(value)[:80]
