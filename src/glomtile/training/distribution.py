"""Data-parallel training on several devices, with Keras on JAX."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras

from glomtile.config.schema import TrainSettings
from glomtile.errors import ConfigError


@dataclass(frozen=True)
class Devices:
    """The devices that share each batch of a training.

    Attributes
    ----------
    names : tuple of str
        As Keras lists them (``gpu:0``); empty for one device, which Keras chooses.
    """

    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of devices."""
        return max(1, len(self.names))

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which a network is built, compiled, trained and saved."""
        if self.count == 1:
            return nullcontext()
        scope: AbstractContextManager[Any] = SharedBatches(devices=list(self.names)).scope()
        return scope


class SharedBatches(keras.distribution.DataParallel):  # type: ignore[misc]
    """Data parallelism for batches of any size.

    Notes
    -----
    A batch that does not divide by the number of devices, as the last one of an epoch may be, is computed
    whole on each of them: the step is that of one device.
    """

    def get_data_layout(self, data_shape: tuple[int, ...]) -> Any:
        if data_shape[0] % self.num_model_replicas == 0:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


def choose_devices(settings: TrainSettings, where: object = "config") -> Devices:
    """Choose the devices that a config asks for.

    Parameters
    ----------
    settings : TrainSettings
        `devices`, of the kind that the backend prefers: graphics cards where it finds any, else processors;
        `batch_size`.
    where : object
        The config, for errors.

    Returns
    -------
    Devices

    Raises
    ------
    ConfigError
        There are fewer, the batch does not divide by their number, or the backend trains on one device only.
    """
    wanted, key = settings.devices, f"{where} [train] devices"
    if wanted == 1:
        return Devices()
    backend = keras.backend.backend()
    if backend != "jax":
        raise ConfigError(
            key,
            f"expected 1 with the backend {backend}, got {wanted!r}",
            "several devices need JAX: install glomtile[jax] and set KERAS_BACKEND=jax",
        )
    names = tuple(keras.distribution.list_devices())
    count = len(names) if wanted == "all" else wanted
    if count > len(names):
        raise ConfigError(
            key,
            f'expected "all" or 1 to {len(names)}, as {backend} finds {", ".join(names)}, got {count}',
            "glomtile info lists the devices",
        )
    if count == 1:
        return Devices()
    if settings.batch_size % count:
        raise ConfigError(
            f"{where} [train] batch_size",
            f"expected a multiple of the {count} devices, got {settings.batch_size}",
            "the devices share each batch",
        )
    return Devices(names[:count])
