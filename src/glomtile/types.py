"""The few shapes every floor agrees on: boxes, readers, predictors, progress."""

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


def crop(plane: Any, box: Box) -> UInt8:
    """Return the pixels of a box of a plane in memory or on disk."""
    return np.asarray(plane[box.top : box.bottom, box.left : box.right], np.uint8)


@runtime_checkable
class Reader(Protocol):
    """A picture read piece by piece at one working resolution."""

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)`` at the working resolution."""
        ...

    @property
    def mpp(self) -> float | None:
        """Micrometres per working pixel, ``None`` when nobody knows."""
        ...

    def read(self, box: Box) -> UInt8:
        """``(h, w, 3) uint8``; where `box` hangs over the edge, tissue is mirrored."""
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
        """Shifting the input by a multiple of this shifts the answer and changes nothing else."""
        ...

    @property
    def context_px(self) -> int:
        """How far from a pixel the network can see, per side."""
        ...

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel the network was trained at."""
        ...

    def __call__(self, batch: UInt8) -> Float32: ...


RowSink = Callable[[int, Float32], None]
"""Takes finished rows once each, top to bottom: ``sink(top, probs)`` with probs ``(h, W, K)``."""


class Progress(Protocol):
    """How long work tells that it goes on; verbs print nothing themselves."""

    def start(self, title: str, total: int | None = None) -> None:
        """A new stage begins, of `total` steps where that is known."""
        ...

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """`steps` more are done; `figures` are worth showing beside the bar."""
        ...

    def note(self, text: str) -> None:
        """One line worth keeping."""
        ...

    def warn(self, text: str) -> None:
        """One line the user should act on."""
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
"""The progress nobody watches."""
