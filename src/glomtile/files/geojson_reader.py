"""How outlines come back from QuPath as GeoJSON, and what is passed over or repaired on the way."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.core.palette import RGB
from glomtile.errors import InputError
from glomtile.files.geojson import Annotation, polygons_of
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

_FEWEST_PLACES = 4


def read_annotations(path: Path, progress: Progress = SILENT) -> list[Annotation]:
    """Polygons of a GeoJSON file as QuPath exports it.

    Parameters
    ----------
    path : Path
        A FeatureCollection, a list of Features or a single Feature, UTF-8.
    progress : Progress
        Is warned, a line a kind, of what was passed over (points, lines, collections, rings without
        area) and what was repaired (outlines that cross themselves).

    Returns
    -------
    list of Annotation
        In the file's order; every polygon is valid and has an area. Classifications may be text, an
        object with ``name`` or ``names``, and ``color`` or, before QuPath 0.4, a packed ``colorRGB``.

    Raises
    ------
    InputError
        The file is missing, is no GeoJSON, or a feature (its number is named, from 1) has coordinates
        that are no finite numbers or properties of a wrong type.
    """
    path = Path(path)
    seen = _Seen()
    found = []
    for number, feature in enumerate(_features(_parsed(path), path), 1):
        try:
            annotation = _annotation(feature, seen)
        except _Wrong as wrong:
            raise InputError(path, f"feature {number}: {wrong}") from None
        if annotation is not None:
            found.append(annotation)
    seen.tell(path, progress)
    return found


class _Wrong(Exception):  # noqa: N818
    """``expected …, got …`` of one feature."""


@dataclass
class _Seen:
    """What a file held that is worth a warning."""

    passed_over: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    empty_rings: int = 0

    def tell(self, path: Path, progress: Progress) -> None:
        if self.passed_over:
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.passed_over.items()))
            progress.warn(f"{path}: only polygons are read; passed over: {listed}")
        if self.repaired:
            progress.warn(f"{path}: {self.repaired} outlines crossed themselves and were repaired")
        if self.empty_rings:
            progress.warn(f"{path}: {self.empty_rings} rings without area were dropped")


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(path, "expected a GeoJSON file, got nothing there") from None
    except IsADirectoryError:
        raise InputError(path, "expected a GeoJSON file, got a folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"expected a GeoJSON file that can be read, got: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"expected GeoJSON, got: {error}") from error


def _features(data: Any, path: Path) -> list[Any]:
    if isinstance(data, list):
        return data
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "FeatureCollection" and isinstance(data.get("features"), list):
        return list(data["features"])
    if kind == "Feature":
        return [data]
    if kind == "GeometryCollection":
        return [{"type": "Feature", "geometry": data}]
    got = f"an object of type {kind!r}" if isinstance(data, dict) else _what(data)
    raise InputError(path, f"expected a FeatureCollection, a list of Features or a Feature, got {got}")


def _annotation(feature: Any, seen: _Seen) -> Annotation | None:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        got = f"type {feature.get('type')!r}" if isinstance(feature, dict) else _what(feature)
        raise _Wrong(f'expected an object of type "Feature", got {got}')
    properties = _object(feature.get("properties"), "properties")
    polygon = _polygon(feature.get("geometry"), seen)
    if polygon is None:
        return None
    name, rgb = _classification(properties.get("classification"))
    kind = properties.get("objectType", properties.get("object_type", "annotation"))
    return Annotation(
        polygon=polygon,
        name=name,
        rgb=rgb,
        measurements=_measurements(properties.get("measurements")),
        object_type=_text(kind, "objectType"),
        id=str(feature["id"]) if isinstance(feature.get("id"), str | int) else "",
    )


def _polygon(geometry: Any, seen: _Seen) -> Polygon | MultiPolygon | None:
    import shapely

    geometry = _object(geometry, "geometry")
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        if geometry and not isinstance(kind, str):
            raise _Wrong(f"expected a type of geometry, got {_what(kind)}")
        seen.passed_over[kind if isinstance(kind, str) else "feature without a geometry"] += 1
        return None
    coordinates = _list(geometry.get("coordinates"), "coordinates")
    parts = [_part(rings, seen) for rings in ([coordinates] if kind == "Polygon" else coordinates)]
    drawn = [part for part in parts if part is not None]
    if not drawn:
        return None
    shape = shapely.MultiPolygon(drawn) if kind == "MultiPolygon" else drawn[0]
    if shape.is_valid:
        return shape
    repaired = polygons_of(shapely.make_valid(shape, method="structure", keep_collapsed=False))
    if repaired is None:
        seen.empty_rings += 1
        return None
    seen.repaired += 1
    return repaired


def _part(rings: Any, seen: _Seen) -> Polygon | None:
    """One polygon of its exterior and its holes, ``None`` where the exterior is empty."""
    import shapely

    exterior, *holes = [_ring(ring) for ring in _list(rings, "a polygon")] or [np.empty((0, 2))]
    full = [hole for hole in holes if _has_area(hole)]
    seen.empty_rings += len(holes) - len(full)
    if not _has_area(exterior):
        seen.empty_rings += 1
        return None
    return shapely.Polygon(exterior, full)


def _ring(places: Any) -> NDArray[np.float64]:
    """``(N, 2)``; a third number, a height, is passed over."""
    pairs = [_list(place, "a place")[:2] for place in _list(places, "a ring")]
    for pair in pairs:
        if len(pair) != 2 or not all(_is_number(value) for value in pair):
            raise _Wrong(f"expected places of two finite numbers, got {json.dumps(pair)[:80]}")
    return np.array(pairs, np.float64).reshape(-1, 2)


def _has_area(ring: NDArray[np.float64]) -> bool:
    """Whether it has three places that lie on no common line; the ring may be open."""
    places = np.unique(ring, axis=0)
    if len(places) < _FEWEST_PLACES - 1:
        return False
    x, y = (places[1:] - places[0]).T
    return bool((x[0] * y != y[0] * x).any())


def _classification(value: Any) -> tuple[str | None, RGB | None]:
    if value is None or isinstance(value, str):
        return value or None, None
    entry = _object(value, "classification")
    packed, listed = entry.get("colorRGB"), entry.get("color")
    rgb = _unpacked(packed if listed is None else listed)
    if entry.get("names") is not None:
        names = [_text(name, "a name") for name in _list(entry["names"], "names")]
    else:
        names = [] if entry.get("name") is None else [_text(entry["name"], "the classification's name")]
    parent = _classification(entry.get("parentClass"))[0]
    return ": ".join([parent, *names] if parent else names) or None, rgb


def _unpacked(colour: Any) -> RGB | None:
    """``[r, g, b]`` or Java's packed ``0xAARRGGBB``, which may be negative."""
    if colour is None:
        return None
    if isinstance(colour, int) and not isinstance(colour, bool):
        return colour >> 16 & 255, colour >> 8 & 255, colour & 255
    parts = _list(colour, "a colour")
    if len(parts) != 3 or not all(_is_number(part) and 0 <= part <= 255 for part in parts):
        raise _Wrong(f"expected a colour of three numbers of 0 to 255, got {json.dumps(colour)[:80]}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _measurements(value: Any) -> dict[str, float]:
    """An object, or a list of names and values as before QuPath 0.4; what is not finite is left out."""
    if isinstance(value, list):
        entries = [_object(entry, "a measurement") for entry in value]
        pairs: list[tuple[str, Any]] = [
            (_text(entry.get("name"), "a measurement's name"), entry.get("value")) for entry in entries
        ]
    else:
        pairs = list(_object(value, "measurements").items())
    return {name: float(number) for name, number in pairs if _is_number(number)}


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Wrong(f"expected an object for {what}, got {_what(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Wrong(f"expected a list for {what}, got {_what(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"expected text for {what}, got {_what(value)}")
    return value


def _what(value: Any) -> str:
    return json.dumps(value)[:80]
