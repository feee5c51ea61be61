"""Second thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np

from glomtile.io import atomic
from glomtile.objects.extraction import FoundObject, Glass, found_objects
from glomtile.objects.postprocessing import ShapingRules
from glomtile.objects.regions import regions_in_order
from glomtile.types import Progress, UInt8, crop

_BAND_PX = 512
_END = -1


@dataclass(frozen=True, eq=False)
class ObjectFinder:
    """Makes objects of labels and paints them on a plane of their own.

    Attributes
    ----------
    labels, confidence : (H, W) uint8 planes
        In memory or on disk.
    canvas : (H, W) uint8 plane
        Empty; takes the pixels of the objects that are kept.
    num_classes : int
        Background included.
    mpp : float
        Micrometres per pixel.
    rules : ShapingRules or mapping of int to ShapingRules
        See `glomtile.objects.extraction.found_objects`.
    glass : callable or None
    """

    labels: Any
    confidence: Any
    canvas: Any
    num_classes: int
    mpp: float
    rules: ShapingRules | Mapping[int, ShapingRules]
    glass: Glass | None = None

    def found(self, bottoms: Iterable[int]) -> Iterator[FoundObject]:
        """The objects in reading order, without their masks' pixels.

        Parameters
        ----------
        bottoms : iterable of int
            How many rows from the top may be read, growing up to all of them. An object comes as soon as
            these rows make it certain.
        """
        height, width = (int(side) for side in self.labels.shape)
        regions = regions_in_order(self._bands(bottoms, width), width, self.num_classes)
        for found in found_objects(
            self.labels,
            self.confidence,
            regions,
            self.mpp,
            self.rules,
            (height, width),
            self.glass,
            in_order=True,
        ):
            _paint(found, self.canvas)
            yield FoundObject(
                found.class_number,
                found.box,
                np.zeros((0, 0), np.bool_),
                found.polygon,
                found.measures,
                found.reduced_by,
            )

    def _bands(self, bottoms: Iterable[int], width: int) -> Iterator[UInt8]:
        top = 0
        for bottom in bottoms:
            while top < bottom:
                until = min(top + _BAND_PX, bottom)
                yield np.asarray(self.labels[top:until, 0:width], np.uint8)
                top = until


class ObjectStream:
    """Runs an `ObjectFinder` in a thread behind whoever finishes rows.

    Parameters
    ----------
    find : callable
        As `ObjectFinder.found`.
    folder : Path
        Where the planes lie; named when the disk refuses.

    Notes
    -----
    Objects and their order are those of `find` given all rows at once: when rows come decides when an
    object is found, not which. Leaving the context without `results` drops what is not yet done.
    """

    def __init__(self, find: Callable[[Iterable[int]], Iterator[FoundObject]], folder: Path) -> None:
        self._bottoms: SimpleQueue[int] = SimpleQueue()
        self._found: SimpleQueue[FoundObject | None] = SimpleQueue()
        self._dropped = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="glomtile-objects")
        self._end = self._pool.submit(self._run, find, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = True
        self._bottoms.put(_END)
        self._pool.shutdown(wait=True)

    def rows_whole(self, bottom: int) -> None:
        """Say that so many rows from the top may be read.

        Raises
        ------
        GlomtileError
            What stopped the thread.
        """
        if self._end.done():
            self._end.result()
        self._bottoms.put(bottom)

    def results(self) -> Iterator[FoundObject]:
        """The objects in reading order, once all rows are done.

        Raises
        ------
        GlomtileError
            What stopped the thread.
        """
        self._bottoms.put(_END)
        yield from iter(self._found.get, None)
        self._end.result()

    def _run(self, find: Callable[[Iterable[int]], Iterator[FoundObject]], folder: Path) -> None:
        try:
            with atomic.storage_errors(folder):
                for found in find(iter(self._bottoms.get, _END)):
                    if self._dropped:
                        return
                    self._found.put(found)
        finally:
            self._found.put(None)


def counted(objects: Iterable[FoundObject], progress: Progress) -> Iterator[FoundObject]:
    """The same objects, each told of as it comes."""
    for found in objects:
        progress.advance(1)
        yield found


def _paint(found: FoundObject, target: Any) -> None:
    box, mask = found.box, found.mask
    if found.reduced_by > 1:
        mask = mask.repeat(found.reduced_by, axis=0).repeat(found.reduced_by, axis=1)
        mask = mask[: box.height, : box.width]
    pixels = crop(target, box).copy()
    pixels[mask] = found.class_number
    target[box.top : box.bottom, box.left : box.right] = pixels
