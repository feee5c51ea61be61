"""Types that all packages share: boxes, readers, predictors, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

IGNORE = 255
"""Label of a pixel that counts neither in a loss nor in a score."""


class Box(NamedTuple):
    """A half-open rectangle of whole pixels, rows before columns."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def slices(self, origin: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        """Return its rows and columns in an array that begins at the row and column `origin`."""
        top, left = origin
        return slice(self.top - top, self.bottom - top), slice(self.left - left, self.right - left)

    def intersection(self, other: Box) -> Box:
        """Return the rectangle that both have; its height or width is below 1 where there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Box(top, left, min(self.bottom, other.bottom), min(self.right, other.right))


def crop(plane: Any, box: Box) -> UInt8:
    """Return the pixels of a box of a plane in memory or on disk."""
    return np.asarray(plane[box.slices()], np.uint8)


@runtime_checkable
class Reader(Protocol):
    """An image that is read in boxes at one working resolution."""

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)`` at the working resolution."""
        ...

    @property
    def mpp(self) -> float | None:
        """Micrometres per working pixel, ``None`` when unknown."""
        ...

    def read(self, box: Box) -> UInt8:
        """``(h, w, 3) uint8``; beyond the edge, tissue is mirrored."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """A network as a callable: ``(N, h, w, 3) uint8 -> (N, h, w, K) float32``, sums 1."""

    @property
    def num_classes(self) -> int:
        """K, background included."""
        ...

    @property
    def stride_px(self) -> int:
        """Shift of the input that only shifts the output, as do its multiples."""
        ...

    @property
    def context_px(self) -> int:
        """Pixels on each side of a pixel that can influence its output."""
        ...

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel the network was trained at."""
        ...

    def __call__(self, batch: UInt8) -> Float32: ...


RowSink = Callable[[int, Float32], None]
"""Takes finished rows once each, top to bottom: ``sink(top, probs)`` with probs ``(h, W, K)``."""


class Progress(Protocol):
    """Receiver of the progress of long work; functions print nothing themselves."""

    def start(self, title: str, total: int | None = None) -> None:
        """Start a stage of `total` steps, where that is known."""
        ...

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Report `steps` more steps as done; `figures` are shown beside the bar."""
        ...

    def note(self, text: str) -> None:
        """Print one line of information."""
        ...

    def warn(self, text: str) -> None:
        """Print one line that asks the user to act."""
        ...


class _Silent:
    def start(self, title: str, total: int | None = None) -> None:
        pass

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
"""A progress that shows nothing."""
