"""Weights with which a network's answer turns with its image by quarter turns (p4 group convolutions).

Channels come in fours: channel 4 f + k is how field f looks at the image turned by k quarter turns. So a
kernel is free in a quarter of its numbers; the others are those, turned. The layers stay Keras' own: what
ties the numbers is an initializer and a constraint.

References
----------
Cohen T. S., Welling M., "Group equivariant convolutional networks", ICML 2016, arXiv:1602.07576.
Veeling B. S. et al., "Rotation equivariant CNNs for digital pathology", MICCAI 2018, arXiv:1806.03962.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

TURNS = 4
"""Channels of a field: one for each quarter turn."""


@cache
def orbits(shape: tuple[int, ...], turned: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers of a weight are one number, seen at four turns.

    Parameters
    ----------
    shape : tuple of int
        ``(k, k, channels, channels)`` of a kernel, ``(channels,)`` of a bias or scale.
    turned : tuple of bool
        For each axis of channels, whether they come in fours; at least one of them does.

    Returns
    -------
    members : (M, 4) int32
        Places in the flat weight; four in a row are tied.
    owner : shape int32
        The row of `members` that a place belongs to.
    """
    places = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    members = np.stack([_turn(places, turned, k).ravel() for k in range(TURNS)], axis=1)
    first = members.min(axis=1)
    rows, owner = np.unique(first, return_inverse=True)
    return members[rows], owner.reshape(shape).astype(np.int32)


def _turn(weight: np.ndarray, turned: tuple[bool, ...], quarters: int) -> np.ndarray:
    """The weight by which the image turned by so many quarters gives the turned answer."""
    if weight.ndim > 1:
        weight = np.rot90(weight, quarters, axes=(0, 1))
    first = weight.ndim - len(turned)
    for axis, is_turned in enumerate(turned, first):
        if is_turned:
            fields = weight.reshape(*weight.shape[:axis], -1, TURNS, *weight.shape[axis + 1 :])
            weight = np.roll(fields, quarters, axis + 1).reshape(weight.shape)
    return weight


def tied(weight: Any, turned: tuple[bool, ...]) -> Any:
    """The nearest weight whose tied numbers are equal: each is their mean."""
    members, owner = orbits(tuple(weight.shape), turned)
    means = ops.mean(ops.take(ops.reshape(weight, (-1,)), members), axis=1)
    return ops.take(means, owner)


class Tied(keras.constraints.Constraint):  # type: ignore[misc]
    """Keeps tied numbers equal after every step.

    Parameters
    ----------
    *turned : bool
        As in `orbits`.
    """

    def __init__(self, *turned: bool) -> None:
        self._turned = turned

    def __call__(self, w: Any) -> Any:
        return tied(w, self._turned)


class TiedInitializer(keras.initializers.Initializer):  # type: ignore[misc]
    """Draws as another does, with tied numbers equal and the spread kept.

    Parameters
    ----------
    inner : keras.initializers.Initializer
        Draws numbers of mean 0 that do not depend on each other.
    *turned : bool
        As in `orbits`.
    """

    def __init__(self, inner: keras.initializers.Initializer, *turned: bool) -> None:
        self._inner = inner
        self._turned = turned

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        # The mean of four has half their spread.
        return 2 * tied(self._inner(tuple(shape), dtype=dtype), self._turned)


def pooled(mean: Any, variance: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel ``(C,)`` → those of its field, repeated."""
    fields = ops.reshape(mean, (-1, TURNS))
    middle = ops.mean(fields, axis=1, keepdims=True)
    squares = ops.reshape(variance, (-1, TURNS)) + ops.square(fields - middle)
    spread = ops.mean(squares, axis=1, keepdims=True)
    repeated = [ops.reshape(ops.repeat(values, TURNS, axis=1), (-1,)) for values in (middle, spread)]
    return repeated[0], repeated[1]
