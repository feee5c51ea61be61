"""Data-parallel training on several devices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from weakref import WeakSet

import keras
import numpy as np

from glomtile.config.schema import TrainSettings
from glomtile.errors import ConfigError
from glomtile.networks.layers import Total
from glomtile.types import IGNORE, UInt8


@dataclass(frozen=True)
class Devices:
    """Where a model trains; this class itself is one device, which Keras chooses.

    Attributes
    ----------
    names : tuple of str
        As Keras lists them (``gpu:0``); empty where Keras chooses.
    """

    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return max(1, len(self.names))

    @property
    def total(self) -> Total | None:
        """Adds up the sums of a batch's parts in losses and normalisation; ``None``: there are none."""
        return None

    @property
    def copies(self) -> int:
        """How many copies of the model there are, whose gradients Keras adds up."""
        return 1

    def scope(self) -> AbstractContextManager[Any]:
        """In which a network is built, compiled, trained and saved."""
        return nullcontext()

    def train(self, model: keras.Model, images: UInt8, labels: UInt8) -> None:
        """One step.

        Parameters
        ----------
        model : keras.Model
            Compiled in the scope, its network and loss built with `total`.
        images : (N, h, w, C) uint8
            The whole batch; N need not divide by `count`.
        labels : (N, h, w) uint8
        """
        model.train_on_batch(images, labels)

    def test(self, model: keras.Model, images: UInt8, labels: UInt8) -> None:
        """Bring the metrics of `model` to this batch; parameters as in `train`."""
        model.test_on_batch(images, labels)


ONE_DEVICE = Devices()


def choose_devices(settings: TrainSettings, where: object = "config") -> Devices:
    """The devices that a config asks for.

    Parameters
    ----------
    settings : TrainSettings
        `devices`, of the kind that the backend prefers: graphics cards where it sees any, else processors;
        `precision`.
    where : object
        The config, for errors.

    Returns
    -------
    Devices

    Raises
    ------
    ConfigError
        There are fewer, or the backend trains on one device only, or on several not in this precision.
    """
    asked, key = settings.devices, f"{where} [train] devices"
    backend = keras.backend.backend()
    several = {"jax": SpreadDevices, "tensorflow": MirroredDevices}.get(backend)
    if asked == 1:
        return ONE_DEVICE
    if several is None:
        raise ConfigError(
            key,
            f"expected 1, on which Keras trains with {backend}, got {asked!r}",
            "KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax trains on several",
        )
    names = tuple(keras.distribution.list_devices())
    wanted = len(names) if asked == "all" else asked
    if wanted > len(names):
        raise ConfigError(
            key,
            f'expected "all" or a whole number from 1 to {len(names)}, as {backend} sees {", ".join(names)}, '
            f"got {asked}",
            "glomtile info lists the devices",
        )
    if wanted == 1:
        return ONE_DEVICE
    if backend == "tensorflow" and settings.precision == "mixed_float16":
        # A copy that saw an overflow leaves the step out, and the others wait for its gradients for ever.
        raise ConfigError(
            f"{where} [train] precision",
            f"expected 'float32' or 'mixed_bfloat16' on {wanted} devices with {backend}, got 'mixed_float16'",
            "KERAS_BACKEND=jax takes it on several devices",
        )
    return several(names[:wanted])


class _Several(Devices):
    """Equal parts of each batch; what is missing to them is filled up with samples that do not count."""

    def train(self, model: keras.Model, images: UInt8, labels: UInt8) -> None:
        model.train_on_batch(*self._parted(model, images, labels))

    def test(self, model: keras.Model, images: UInt8, labels: UInt8) -> None:
        model.test_on_batch(*self._parted(model, images, labels))

    def _parted(self, model: keras.Model, images: UInt8, labels: UInt8) -> tuple[Any, Any, Any]:
        inputs, labels, weights = fill_up(images, labels, self.count)
        return inputs[: len(model.inputs)], labels, weights


class SpreadDevices(_Several):
    """JAX: one program, its arrays spread over the devices: every sum is over the whole batch."""

    @property
    def total(self) -> Total:
        return _already_whole

    def scope(self) -> AbstractContextManager[Any]:
        scope: AbstractContextManager[Any] = keras.distribution.DataParallel(devices=list(self.names)).scope()
        return scope


def _already_whole(sums: Any) -> Any:
    return sums


class MirroredDevices(_Several):
    """TensorFlow: a copy of the model on each device, whose gradients and sums are added up in each step."""

    @property
    def _strategy(self) -> Any:
        return _mirrored(self.names)

    @cached_property
    def _built(self) -> WeakSet[keras.Model]:
        return WeakSet()

    @property
    def total(self) -> Total:
        return _sum_over_replicas

    @property
    def copies(self) -> int:
        return self.count

    def scope(self) -> AbstractContextManager[Any]:
        scope: AbstractContextManager[Any] = self._strategy.scope()
        return scope

    def _parted(self, model: keras.Model, images: UInt8, labels: UInt8) -> tuple[Any, Any, Any]:
        inputs, labels, weights = super()._parted(model, images, labels)
        if model not in self._built:
            # Keras gives metrics their variables by the shapes of a batch, and a parted one has none.
            model.test_on_batch([x[:1] for x in inputs], labels[:1], weights[:1])
            self._built.add(model)
        return [self._part(x) for x in inputs], self._part(labels), self._part(weights)

    def _part(self, batch: np.ndarray) -> Any:
        """The batch, cut evenly; ``train_on_batch`` would give all of it to each device."""
        import tensorflow as tf

        parts = np.split(batch, self.count)
        return self._strategy.experimental_distribute_values_from_function(
            lambda replica: tf.convert_to_tensor(parts[replica.replica_id_in_sync_group])
        )


@cache
def _mirrored(names: tuple[str, ...]) -> Any:
    """One strategy a process: a second one over the same devices would number its exchanges as the first."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"/{name}" for name in names])


def _sum_over_replicas(sums: Any) -> Any:
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return sums
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)


def fill_up(images: UInt8, labels: UInt8, parts: int) -> tuple[list[np.ndarray], UInt8, np.ndarray]:
    """A batch made divisible by `parts`, with weights by which its loss is that of the batch as it was.

    Parameters
    ----------
    images : (N, h, w, C) uint8
        N >= 1.
    labels : (N, h, w) uint8
    parts : int

    Returns
    -------
    inputs : [(M, h, w, C) uint8, (M,) float32]
        Images, the last one repeated, and 1 for each that counts, 0 for each that does not; M is the next
        multiple of `parts`.
    labels : (M, h, w) uint8
        `IGNORE` where the image does not count.
    weights : (M,) float32
        M / N or 0: the mean over M weighted values is the mean over the N.
    """
    count, spare = len(images), -len(images) % parts
    if spare:
        images = np.concatenate([images, np.repeat(images[-1:], spare, axis=0)])
        labels = np.concatenate([labels, np.full((spare, *labels.shape[1:]), IGNORE, np.uint8)])
    counts = (np.arange(count + spare) < count).astype(np.float32)
    return [images, counts], labels, counts * np.float32((count + spare) / count)
