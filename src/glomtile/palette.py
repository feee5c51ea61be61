"""Classes, their numbers and colours, and conversion between colour masks and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import ConfigError, InputError
from glomtile.types import IGNORE, UInt8

RGB = tuple[int, int, int]

_NAMED_COLOURS = 5
_FEW_COLOURS = 8
_NEAR = 64
_NEAR_IN_A_JPEG = 127
_UNKNOWN = 254
_IGNORED_GREY: RGB = (128, 128, 128)


@dataclass(frozen=True)
class PaletteClass:
    """One class: its number in label arrays, its name, its colour in mask files."""

    number: int
    name: str
    rgb: RGB


@dataclass(frozen=True)
class Palette:
    """Class number, name and colour, both ways.

    Parameters
    ----------
    classes : tuple of PaletteClass
        Sorted by number; the numbers are 0, 1, …, K − 1, the colours differ.

    Raises
    ------
    ConfigError
        The numbers leave a gap, two classes share a colour or a name, a colour is not three
        numbers of 0 to 255, or there are more than 254 classes.

    Notes
    -----
    Everything follows the class number, never the order in which a colour map was written
    (reference §6.11: there the palette followed the map's order).
    """

    classes: tuple[PaletteClass, ...]

    def __post_init__(self) -> None:
        numbers = [entry.number for entry in self.classes]
        if numbers != list(range(len(numbers))) or not numbers:
            raise ConfigError(
                "rgb_map", f"expected the class numbers 0, 1, 2, … without a gap, got {numbers}"
            )
        if len(numbers) > _UNKNOWN:
            raise ConfigError("rgb_map", f"expected at most {_UNKNOWN} classes, got {len(numbers)}")
        for entry in self.classes:
            if len(entry.rgb) != 3 or not all(0 <= part <= 255 for part in entry.rgb):
                raise ConfigError("rgb_map", f"expected three numbers of 0 to 255 a colour, got {entry.rgb}")
        own: dict[str, list[Any]] = {"colour": [c.rgb for c in self.classes], "name": list(self.names)}
        for what, values in own.items():
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ConfigError(
                    "rgb_map", f"expected every class to have its own {what}, got {twice} twice"
                )

    @classmethod
    def from_rgb_map(cls, rgb_map: Mapping[RGB, int], names: Sequence[str] | None = None) -> Palette:
        """Build a palette from the configuration's ``{(r, g, b): class number}``.

        Parameters
        ----------
        rgb_map : mapping
            Colour to class number; its order does not matter.
        names : sequence of str, optional
            One name a class, in the order of the class numbers, background included. Without
            it the classes are called ``background``, ``class 1``, ``class 2``, …

        Returns
        -------
        Palette

        Raises
        ------
        ConfigError
            See the class; also when a colour or a class is no whole number, or there are not as many names as
            classes.
        """
        for rgb, number in rgb_map.items():
            if not isinstance(rgb, tuple) or not all(map(_whole, rgb)):
                raise ConfigError("rgb_map", f"expected three numbers of 0 to 255 a colour, got {rgb!r}")
            if not _whole(number):
                raise ConfigError("rgb_map", f"expected a whole number a class, got {number!r}")
        entries = sorted(rgb_map.items(), key=lambda item: item[1])
        if names is None:
            names = ["background" if number == 0 else f"class {number}" for _, number in entries]
        if len(names) != len(entries):
            raise ConfigError("class_names", f"expected {len(entries)} names, one a class, got {len(names)}")
        classes = []
        for (rgb, number), name in zip(entries, names, strict=True):
            plain: Any = tuple(map(int, rgb))  # NumPy's numbers could not be written as JSON
            classes.append(PaletteClass(number, name, plain))
        return cls(tuple(classes))

    def to_rgb_map(self) -> dict[RGB, int]:
        """``{(r, g, b): class number}`` in the order of the class numbers."""
        return {entry.rgb: entry.number for entry in self.classes}

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the class numbers."""
        return tuple(entry.name for entry in self.classes)

    def flat(self) -> list[int]:
        """``[r0, g0, b0, r1, …]``, K × 3 numbers: the palette of an indexed PNG."""
        return [part for entry in self.classes for part in entry.rgb]

    def encode(self, labels: UInt8) -> UInt8:
        """Paint class numbers in their colours.

        Parameters
        ----------
        labels : (H, W) uint8 ndarray
            Class numbers below K; ``IGNORE`` is painted grey (128, 128, 128), which `decode` reads as no
            class, unless one has that colour.

        Returns
        -------
        (H, W, 3) uint8 ndarray
            RGB.

        Raises
        ------
        InputError
            A label is neither a class of this palette nor ``IGNORE``.
        """
        self.require_known(labels, ignore=True)
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = [entry.rgb for entry in self.classes]
        table[IGNORE] = _IGNORED_GREY
        return table[labels]

    def require_known(self, labels: UInt8, *, where: object = "labels", ignore: bool = False) -> None:
        """Refuse labels that are no class of this palette, saying which and how many.

        Raises
        ------
        InputError
            A label is K or more (and not ``IGNORE`` where `ignore` allows it).
        """
        if labels.size == 0 or int(labels.max()) < self.num_classes:
            return
        counts = np.bincount(labels.ravel(), minlength=256)
        counts[: self.num_classes] = 0
        if ignore:
            counts[IGNORE] = 0
        if not counts.any():
            return
        strange = np.flatnonzero(counts)
        listed = ", ".join(f"{n} on {_share(counts[n], labels.size)}" for n in strange[:_NAMED_COLOURS])
        more = f" and {len(strange) - _NAMED_COLOURS} more" if len(strange) > _NAMED_COLOURS else ""
        raise InputError(
            where,
            f"expected class numbers 0 to {self.num_classes - 1}, got {listed}{more}",
            hint=(
                'a mask of 0 and 255 is colours, not class numbers: mask_datatype = "categorized" with '
                "rgb_map = {(0,0,0):0, (255,255,255):1}"
                if strange.tolist() == [255]
                else "check num_classes and rgb_map"
            ),
        )

    def decode(self, rgb: UInt8, tolerance: int = 0, *, where: object = "mask") -> UInt8:
        """Read colours back as class numbers.

        Parameters
        ----------
        rgb : (H, W, 3) uint8 ndarray
            A colour mask.
        tolerance : int
            Largest difference of red, green and blue to the class's colour, 0 to 255; of several
            classes in reach the nearest is taken. 0 accepts exact colours only.
        where : object
            What an error names, usually the file.

        Returns
        -------
        (H, W) uint8 ndarray
            Class numbers.

        Raises
        ------
        InputError
            The mask is not ``(H, W, 3) uint8``, or pixels have a colour of no class; the commonest are
            named with their share.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise InputError(where, f"expected (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
        codes = red << 16 | green << 8 | blue
        labels = np.full(codes.shape, _UNKNOWN, np.uint8)
        for entry in self.classes:
            r, g, b = entry.rgb
            labels[codes == (r << 16 | g << 8 | b)] = entry.number
        unknown = labels == _UNKNOWN
        if not unknown.any():
            return labels
        colours, inverse, counts = np.unique(codes[unknown], return_inverse=True, return_counts=True)
        # Of each unknown colour: the nearest class within the tolerance, the lower number in a tie.
        numbers = np.full(colours.shape, _UNKNOWN, np.uint8)
        best = np.full(colours.shape, np.iinfo(np.int32).max, np.int32)
        parts = _parts(colours)
        for entry in self.classes:
            apart = np.abs(parts - np.array(entry.rgb, np.int32))
            distance = (apart**2).sum(axis=-1, dtype=np.int32)
            closer = (apart.max(axis=-1) <= tolerance) & (distance < best)
            numbers[closer], best[closer] = entry.number, distance[closer]
        is_unknown = numbers == _UNKNOWN
        if is_unknown.any():
            self._refuse_colours(colours[is_unknown], counts[is_unknown], codes.size, where)
        labels[unknown] = numbers[inverse.ravel()]
        return labels

    def _refuse_colours(
        self, colours: NDArray[np.uint32], counts: NDArray[np.intp], size: int, where: object
    ) -> None:
        order = np.argsort(-counts, kind="stable")
        parts = _parts(colours[order])
        listed = ", ".join(
            f"({r},{g},{b}) on {_share(count, size)}"
            for (r, g, b), count in zip(parts[:_NAMED_COLOURS], counts[order], strict=False)
        )
        more = len(colours) - _NAMED_COLOURS
        if more > 0:
            listed += f" and {more} more colours, together on {_share(counts.sum(), size)}"
        known = ", ".join("({},{},{})".format(*entry.rgb) for entry in self.classes)
        wanted = np.array([entry.rgb for entry in self.classes], np.int32)
        needed = int(np.abs(parts[:, None, :] - wanted).max(axis=-1).min(axis=1).max())
        few = len(colours) <= _FEW_COLOURS
        if parts.max() < self.num_classes and (parts == parts[:, :1]).all():
            hint = 'these seem to be class numbers: mask_datatype = "indexed"'
        elif needed <= (_NEAR if few else _NEAR_IN_A_JPEG):
            other = "add them to rgb_map" if few else "save the mask as PNG, unsmoothed"
            hint = (
                f"[mask] tolerance = {needed} in a config, --tolerance {needed} of prepare, would take each "
                f"for its nearest class; or {other}"
            )
        elif few:
            hint = "add them to rgb_map"
        else:
            hint = "is this an image, or a smoothed mask? Masks want PNG and one colour a class"
        raise InputError(where, f"expected the colours {known}, got {listed} of the pixels", hint=hint)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _parts(codes: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Red, green and blue of packed colours, ``(N, 3)``."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.int32)


def _share(count: int, size: int) -> str:
    return f"{100 * count / size:.3g} %"


GLOMERULI = Palette(
    (PaletteClass(0, "background", (0, 0, 0)), PaletteClass(1, "glomerulus", (255, 0, 0))),
)
"""Black background and red glomeruli, the colours of the reference system."""
