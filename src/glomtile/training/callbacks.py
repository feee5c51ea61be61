"""Training callbacks.

Every rule is a function of the history, so a resumed run needs no counters: it replays them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomtile.config.schema import Config
from glomtile.datasets.loading import sample_size, working_scale
from glomtile.errors import GlomtileError, MissingExtraError
from glomtile.inference.image import TilingSettings, segment_image, segment_whole
from glomtile.inference.predictor import KerasPredictor, PredictionSettings
from glomtile.io import atomic
from glomtile.io.images import list_images, read_image
from glomtile.io.masks import write_mask
from glomtile.networks.registry import Geometry
from glomtile.palette import Palette
from glomtile.plotting import plot_curves
from glomtile.types import Progress, UInt8


class Previews:
    """Masks ``Epoch_<n>_<image>.png`` of the first images of a folder after each epoch (reference §4).

    Tiled previews read ``[tiledinfer] images_dir``, whole ones ``[infer] images_dir`` (reference §6.10).
    """

    def __init__(
        self, config: Config, geometry: Geometry, palette: Palette, images: Sequence[Path], *, tiled: bool
    ) -> None:
        self._config = config
        self._geometry = geometry
        self._palette = palette
        self._tiling = TilingSettings.of_config(config) if tiled else None
        key = "epoch_change_tiled_infer_dir" if tiled else "epoch_change_infer_dir"
        self.folder = config.resolve(getattr(config.train, key))
        self._images: list[tuple[str, UInt8, float | None]] = []
        for path in images:
            scale = working_scale(config, path)
            self._images.append((path.stem, read_image(path), scale[0] if scale else None))
        self._predictor: KerasPredictor | None = None

    def __call__(self, end: EpochEnd) -> None:
        predictor = self._predictor = self._predictor or self._predict_with(end.network)
        self.folder.mkdir(parents=True, exist_ok=True)
        for stem, image, image_mpp in self._images:
            if self._tiling is not None:
                labels = segment_image(image, predictor, self._tiling, image_mpp).labels
            else:
                labels = segment_whole(image, predictor, sample_size(self._config))
            write_mask(self.folder / f"Epoch_{end.number}_{stem}.png", labels, self._palette)

    def _predict_with(self, network: Any) -> KerasPredictor:
        settings = PredictionSettings(color_order=self._config.image.color_order)
        return KerasPredictor(network, self._geometry, self._config.model.mpp, settings)


def make_previews(config: Config, geometry: Geometry, palette: Palette, progress: Progress) -> list[Previews]:
    """Create the previews that a config switches on; warn of a folder that cannot be read."""
    switches = (
        (config.train.epoch_change_infer, "infer", False),
        (config.train.epoch_change_tiled_infer, "tiledinfer", True),
    )
    previews = []
    for switch, section, tiled in switches:
        folder = getattr(config, section).images_dir
        if not switch or folder is None:
            continue
        try:
            images = list_images(config.resolve(folder))[: config.train.num_infer_images]
            previews.append(Previews(config, geometry, palette, images, tiled=tiled))
        except GlomtileError as problem:
            progress.warn(f"no {'tiled' if tiled else 'whole'} previews: {problem}")
    return previews


History = list[dict[str, float]]
"""Figures of each epoch (``loss``, ``val_loss``, …), oldest first; NaN where one is not a number."""

_REDUCER_MIN_DELTA = 1e-4
"""Least fall of a loss that the reducer counts as better, as in Keras' ReduceLROnPlateau."""


def to_json(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return an epoch's figures with null, as JSON has it, for what is not a number."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def from_json(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Return an epoch's figures from what `to_json` returned."""
    return {name: math.nan if value is None else value for name, value in figures.items()}


def values(history: History, monitor: str) -> list[float]:
    """Return the monitored figure of each epoch, a loss as it is, a score negated."""
    sign = 1.0 if "loss" in monitor else -1.0
    return [sign * epoch[monitor] for epoch in history]


def stale_epochs(figures: Sequence[float]) -> int:
    """Count the epochs since the lowest figure was first reached; NaN never improves."""
    best, stale = float("inf"), 0
    for figure in figures:
        best, stale = (figure, 0) if figure < best else (best, stale + 1)
    return stale


def reductions(figures: Sequence[float], patience: int) -> int:
    """Count the plateaus that have lowered the rate so far (reference §6.3: there it never fell)."""
    best, waited, count = float("inf"), 0, 0
    for figure in figures:
        if figure < best - _REDUCER_MIN_DELTA:
            best, waited = figure, 0
            continue
        waited += 1
        if waited >= patience:
            count, waited = count + 1, 0
    return count


@dataclass(frozen=True)
class EpochEnd:
    """State of a training at the end of an epoch.

    Attributes
    ----------
    number : int
        From 1.
    history : History
    network : keras.Model
        With the weights that were validated (the averaged ones where an average is kept).
    """

    number: int
    history: History
    network: Any


Listener = Callable[[EpochEnd], None]


@dataclass(frozen=True)
class CurveFiles:
    """The reference's CSVs, plots and ``history.json``, written again each epoch (reference §4).

    Parameters
    ----------
    eval_dir : Path
    history_json : Path
    metric_names : sequence of str
        Metric and validation metric, as `[train] metrics` names them.
    """

    eval_dir: Path
    history_json: Path
    metric_names: Sequence[str]

    def __call__(self, end: EpochEnd) -> None:
        self.eval_dir.mkdir(parents=True, exist_ok=True)
        both = [name for name in ("loss", "val_loss") if name in end.history[0]]
        # Without validation images there are no figures of theirs.
        names = [n for n in self.metric_names if n in end.history[0] or not n.startswith("val_")]
        losses = _table(f"epoch, {', '.join(both)}", end.history, both)
        metrics = _table(f"epoch,{','.join(names)},", end.history, names)
        for name, text in (("train_losses", losses), ("train_metrics", metrics)):
            table = self.eval_dir / f"{name}.csv"
            atomic.write_text(table, text)
            plot_curves(table, self.eval_dir / f"{name}.png", name)
        epochs = [to_json(epoch) for epoch in end.history]
        by_name = {key: [epoch[key] for epoch in epochs] for key in epochs[0]}
        atomic.write_json(self.history_json, by_name)


def _table(header: str, history: History, names: Sequence[str]) -> str:
    rows = [header]
    rows += [", ".join([str(i), *(f"{e[n]:.4f}" for n in names)]) for i, e in enumerate(history)]
    return "\n".join(rows) + "\n"


class TensorBoardFiles:
    """Scalars for TensorBoard; needs the ``tensorboard`` package."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as problem:
            raise MissingExtraError(
                "[train] tensorboard",
                f"expected the tensorboard package, got: {problem}",
                "install glomtile[tensorboard]",
            ) from problem
        self._event, self._summary, self._open = Event, Summary, EventFileWriter
        self._folder = folder
        self._writer: Any = None

    def __call__(self, end: EpochEnd) -> None:
        if self._writer is None:  # not before: an earlier run's folder is moved aside first
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(str(self._folder))
        figures: Mapping[str, float] = end.history[-1]
        summary = self._summary(
            value=[self._summary.Value(tag=name, simple_value=v) for name, v in figures.items()]
        )
        self._writer.add_event(self._event(step=end.number, summary=summary))
        self._writer.flush()
