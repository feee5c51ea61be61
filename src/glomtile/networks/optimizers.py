"""Optimizers and learning rate schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from glomtile.config.schema import ModelSettings, TrainSettings
from glomtile.errors import ConfigError
from glomtile.networks.encoders import PREFIX as ENCODER_PREFIX

COSINE_FLOOR = 0.01
"""Share of the peak learning rate that the cosine schedule ends with."""

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "SGD": keras.optimizers.SGD,
}
"""Names that `[model] optimizer` may give."""


def build_optimizer(
    settings: ModelSettings,
    train_settings: TrainSettings,
    steps_per_epoch: int,
    pretrained: Sequence[Any] = (),
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a config.

    Parameters
    ----------
    settings : ModelSettings
        `optimizer`, `learning_rate`, `clipvalue`, `clipnorm`, `weight_decay`.
    train_settings : TrainSettings
        `epochs`, `schedule`, `warmup_epochs`, `ema_decay`, `encoder_learning_rate_factor`,
        `freeze_encoder_epochs`.
    steps_per_epoch : int
        Batches an epoch, which turn epochs into the schedule's steps.
    pretrained : sequence of keras.Variable
        Weights of a pretrained encoder: they are trained at a share of the learning rate, after
        `freeze_encoder_epochs`, and without weight decay, which would draw them away from what they were
        trained to.

    Returns
    -------
    keras.optimizers.Optimizer
        With the schedule "constant" its `learning_rate` can be assigned to, as reducing on a plateau
        needs.

    Raises
    ------
    ConfigError
        When the optimizer or schedule is unknown.

    Notes
    -----
    Keras clips in one way at a time: a `clipnorm` takes the place of `clipvalue`. Weight decay
    (AdamW) spares biases and normalisation. SGD has momentum 0.9.
    """
    kind = OPTIMIZERS.get(settings.optimizer)
    if kind is None:
        raise ConfigError(
            "[model] optimizer", f"expected one of {', '.join(OPTIMIZERS)}, got {settings.optimizer!r}"
        )
    options: dict[str, Any] = {"learning_rate": learning_rate(settings, train_settings, steps_per_epoch)}
    if settings.clipnorm:
        options["clipnorm"] = settings.clipnorm
    elif settings.clipvalue:
        options["clipvalue"] = settings.clipvalue
    if train_settings.ema_decay > 0:
        options |= {"use_ema": True, "ema_momentum": train_settings.ema_decay}
    if settings.optimizer == "SGD":
        options["momentum"] = 0.9
    if settings.optimizer == "AdamW":
        options["weight_decay"] = settings.weight_decay
    if pretrained:
        frozen_steps = round(train_settings.freeze_encoder_epochs * steps_per_epoch)
        kind = _with_encoder_rate(kind, train_settings.encoder_learning_rate_factor, frozen_steps)
    optimizer = kind(**options)
    if settings.optimizer == "AdamW":
        optimizer.exclude_from_weight_decay(list(pretrained), ["bias", "gamma", "beta"])
    return optimizer


def _with_encoder_rate(
    kind: type[keras.optimizers.Optimizer], factor: float, frozen_steps: int
) -> type[keras.optimizers.Optimizer]:
    """Return an optimizer that trains the encoder later, at a share of the learning rate."""

    class EncoderRate(kind):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if getattr(variable, "path", variable.name).startswith(ENCODER_PREFIX):
                trained = keras.ops.cast(self.iterations >= frozen_steps, learning_rate.dtype)
                learning_rate = learning_rate * factor * trained
            super().update_step(gradient, variable, learning_rate)

    EncoderRate.__name__ = kind.__name__
    return EncoderRate


def learning_rate(
    settings: ModelSettings, train_settings: TrainSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return a number for a constant rate, a schedule over steps otherwise.

    Of a cosine, the warm-up rises in a line over its epochs to `learning_rate`, from where the rate falls
    to 1 % of it at the end of the last epoch. A constant rate has no warm-up.
    """
    peak = settings.learning_rate
    if train_settings.schedule == "constant":
        return peak
    if train_settings.schedule != "cosine":
        raise ConfigError(
            "[train] schedule", f"expected 'constant' or 'cosine', got {train_settings.schedule!r}"
        )
    total = max(1, train_settings.epochs * steps_per_epoch)
    warmup = min(round(train_settings.warmup_epochs * steps_per_epoch), total - 1)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(peak, decay_steps=total, alpha=COSINE_FLOOR)
    return keras.optimizers.schedules.CosineDecay(
        # Not 0: a first step that changes nothing would be a step lost.
        initial_learning_rate=peak / (warmup + 1),
        decay_steps=total - warmup,
        alpha=COSINE_FLOOR,
        warmup_target=peak,
        warmup_steps=warmup,
    )
