"""Training loop, checkpoints and devices.

A checkpoint holds everything the next step depends on: weights, optimizer variables, the seed states of
dropout, running metrics, and the history from which rate and patience follow. Samples need no state (see
`training.samples`). So a run that was killed continues with the same numbers as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from glomtile.config.model_card import ModelCard
from glomtile.config.schema import Config, TrainSettings
from glomtile.errors import ConfigError, ModelError
from glomtile.formatting import duration
from glomtile.io import atomic
from glomtile.models import folder as model_folder
from glomtile.training.callbacks import (
    EpochEnd,
    History,
    Listener,
    from_json,
    reductions,
    stale_epochs,
    to_json,
    values,
)
from glomtile.training.samples import SampleSource, batches
from glomtile.types import SILENT, Progress

STATE_FILE, NOTES_FILE = "training.npz", "training.json"
_NAMED = 5


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


def make_deterministic(seed: int, progress: Progress = SILENT) -> None:
    """Seed Python, NumPy and the backend, and make TensorFlow's sums repeatable (reference §6.8).

    Parameters
    ----------
    seed : int
    progress : Progress
        Receives a warning where TensorFlow has started already: the last bits may differ then.

    Notes
    -----
    TensorFlow's deterministic kernels are not enough: its sum of three or more gradients starts with the one
    whose buffer happens to be free, so operations must run one after the other, each on all processors.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        try:
            if tf.config.threading.get_inter_op_parallelism_threads() != 1:
                tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            progress.warn(
                "TensorFlow started before this training, with operations in parallel: "
                "a second run may differ in the last bits"
            )
    keras.utils.set_random_seed(seed)


def read_notes(last: Path) -> dict[str, Any]:
    """Read settings, history and step of the run whose last model is in a folder.

    Raises
    ------
    ModelError
        There are none, or they are damaged.
    """
    path = last / NOTES_FILE
    if not path.exists():
        raise ModelError(last, "expected the state of a run to resume, got none", "train without --resume")
    notes = atomic.read_json(path, "the state of a run", ModelError)
    for key, kind in (("settings", dict), ("history", list), ("step", int)):
        if not isinstance(notes.get(key), kind):
            got = type(notes.get(key)).__name__
            raise ModelError(path, f"expected {key} of a run as {kind.__name__}, got {got}")
    if not all(isinstance(figures, dict) for figures in notes["history"]):
        raise ModelError(path, "expected history of a run as a list of dict, got other items")
    return {**notes, "history": [from_json(figures) for figures in notes["history"]]}


class Training:
    """A training run, with its best and its last model in a folder.

    Parameters
    ----------
    config : Config
        ``best/`` and ``last/`` are written to its ``model_dir``.
    network : keras.Model
        Not compiled; saved without optimizer.
    model : keras.Model
        Compiled; of the same layers, or of like ones in another precision.
    card : ModelCard
        Card of both models, but for digests, epoch and scores.
    settings : dict
        Everything that changes a number, the data too; a resumed run must agree with it.
    defaults : dict
        Values of settings that did not exist when a run started.

    Attributes
    ----------
    monitor : str
        Figure by which the best epoch is chosen; without validation images a training figure.
    history : list of dict
    """

    def __init__(
        self,
        config: Config,
        network: keras.Model,
        model: keras.Model,
        card: ModelCard,
        settings: dict[str, Any],
        defaults: dict[str, Any],
    ) -> None:
        self._config = config
        self._folder = config.resolve(config.train.model_dir)
        self._network = network
        self._model = model
        self._card = card
        self._settings = settings
        self._defaults = defaults
        validates = config.valid.images_dir is not None
        self.monitor = config.train.monitor if validates else config.train.monitor.removeprefix("val_")
        self.history: History = []
        self._epoch_start = 0
        self._before_first_write: Callable[[], None] | None = None
        self._sums = RunningSums(model)
        self._one_set_of_weights = network.weights[0] is model.weights[0]

    @property
    def best_epoch(self) -> int:
        """The epoch of the best monitored figure, from 1; 0 where none is a number."""
        figures = values(self.history, self.monitor)
        return len(figures) - stale_epochs(figures)

    def resume(self) -> int:
        """Read the state of ``last/`` and return the number of finished epochs.

        Raises
        ------
        ModelError
            There is no state, or it is damaged.
        ConfigError
            It belongs to other settings or other data.
        """
        last = self._folder / "last"
        for folder in (self._folder / "best", last):
            atomic.restore_folder(folder)
        notes = read_notes(last)
        self._require_same(self._defaults | notes["settings"], last)
        self._model.optimizer.build(self._model.trainable_variables)
        self._sums.build(self._network.input_shape[-1], self._card.stride_px)
        path = last / STATE_FILE
        try:
            with np.load(path, allow_pickle=False) as state:
                arrays = [state[f"arr_{i}"] for i in range(len(state.files))]
        except (OSError, ValueError, EOFError, BadZipFile) as problem:
            # NumPy's message about a file that is no archive suggests to read it as a pickle.
            got = "something else" if isinstance(problem, ValueError) else problem
            raise ModelError(
                path, f"expected the arrays of a run state, got: {got}", "the run cannot be resumed"
            ) from problem
        variables = [*self._variables(), *self._model.metrics_variables]
        if len(variables) != len(arrays):
            raise ModelError(path, f"expected {len(variables)} arrays, got {len(arrays)}")
        for variable, value in zip(variables, arrays, strict=True):
            if value.shape != tuple(variable.shape):
                raise ModelError(
                    path, f"expected {variable.path} of shape {variable.shape}, got {value.shape}"
                )
            variable.assign(value)
        self._sums.totals = arrays[len(self._variables()) :]
        self.history = notes["history"]
        self._epoch_start = notes["step"]
        return len(self.history)

    def _require_same(self, then: dict[str, Any], where: Path) -> None:
        now = self._settings
        differing = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
        if differing:
            named = "; ".join(
                f"{key}: {then.get(key)!r} then, {now.get(key)!r} now" for key in differing[:_NAMED]
            )
            named += f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
            raise ConfigError(
                where,
                f"expected the settings and data of the run, got other ones: {named}",
                "train without --resume to start anew; the earlier run is moved aside",
            )

    def run(
        self,
        training: SampleSource,
        validation: SampleSource | None,
        listeners: Sequence[Listener] = (),
        before_first_write: Callable[[], None] = lambda: None,
        progress: Progress = SILENT,
    ) -> str:
        """Train until the last epoch, no epoch was better for long enough, or a stop file appears.

        Parameters
        ----------
        training : SampleSource
        validation : SampleSource or None
            ``None``: there is no ``best/``, and the monitored figure is a training figure.
        listeners : sequence of callable
            Called at the end of every epoch.
        before_first_write : callable
            Called once, before the first file is written.
        progress : Progress

        Returns
        -------
        str
            Why training ended.
        """
        self._before_first_write = before_first_write
        patience = self._config.train.patience
        break_file = self._config.resolve(self._config.train.break_file)
        while len(self.history) < self._config.train.epochs:
            if 0 < patience <= stale_epochs(values(self.history, self.monitor)):
                return f"no better {self.monitor} for {patience} epochs"
            self._epoch(training, validation, listeners, progress)
            if break_file.exists():
                break_file.unlink()
                return f"stopped by {break_file.name}"
        return "all epochs done"

    def _epoch(
        self,
        training: SampleSource,
        validation: SampleSource | None,
        listeners: Sequence[Listener],
        progress: Progress,
    ) -> None:
        start_s, start = perf_counter(), self._epoch_start
        settings, number = self._config.train, len(self.history)
        self._set_rate()
        if start == 0:
            self._sums.clear()
        steps = -(-len(training) // settings.batch_size)
        progress.start(f"epoch {number + 1}/{settings.epochs}", steps)
        if start:
            progress.advance(start)
        figures: dict[str, float] = {}
        workers = self._config.dataset.workers
        ready = batches(training, settings.batch_size, number, start=start, workers=workers)
        for step, (images, labels) in enumerate(ready, start + 1):
            self._model.train_on_batch(images, labels)
            self._sums.add()
            figures = self._sums.figures()
            progress.advance(1, **figures)
            if settings.checkpoint_steps and step % settings.checkpoint_steps == 0 and step < steps:
                self._require_finite(figures["loss"], f"epoch {number + 1}, step {step}")
                self._save_last(step)
        self._epoch_start = 0
        self._require_finite(figures["loss"], f"epoch {number + 1}")
        rate = float(_array(self._model.optimizer.learning_rate))
        with self._judged_weights():
            if validation is not None:
                judged = self._validate(validation, progress)
                figures |= {f"val_{name}": value for name, value in judged.items()}
            # An infinite one is no better than NaN, and comes back as NaN when the run is resumed.
            figures = {name: value if np.isfinite(value) else np.nan for name, value in figures.items()}
            self.history.append(figures | {"learning_rate": rate})
            self._prepare_writing()
            if validation is not None and self.best_epoch == number + 1:
                card = self._card_after(number + 1)
                model_folder.save_model_folder(self._folder / "best", self._network, card)
            end = EpochEnd(number + 1, self.history, self._network)
            for listener in listeners:
                listener(end)
        self._save_last(0)
        if np.isnan(self.history[-1][self.monitor]):
            progress.warn(f"epoch {number + 1}: {self.monitor} is not a number and counts as no better")
        line = "  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items())
        epoch_s, left = perf_counter() - start_s, settings.epochs - number - 1
        ending = f", {duration(left * epoch_s)} left" if left and start == 0 else ""
        progress.note(f"epoch {number + 1}/{settings.epochs}  {line} · {duration(epoch_s)}{ending}")

    @contextmanager
    def _judged_weights(self) -> Iterator[None]:
        """Put the averaged weights, where there is an average, into model and network."""
        with averaged(self._model):
            if not self._one_set_of_weights:
                self._network.set_weights(self._model.get_weights())
            yield

    def _card_after(self, epoch: int) -> ModelCard:
        figures = self.history[-1] if self.history else {}
        judged = {name: value for name, value in figures.items() if name.startswith("val_")}
        return self._card.model_copy(update={"epoch": epoch, "scores": {"validation": judged}})

    def _validate(self, validation: SampleSource, progress: Progress) -> dict[str, float]:
        batch_size = self._config.train.batch_size
        progress.start("validating", -(-len(validation) // batch_size))
        ready = batches(validation, batch_size, 0, workers=self._config.dataset.workers)
        return judge(self._model, ready, progress)

    def _set_rate(self) -> None:
        """Lower the rate once for each plateau of the history; a schedule keeps its own."""
        settings = self._config.train
        if settings.learning_rate_reducer and settings.reducer_patience > 0:
            count = reductions(values(self.history, self.monitor), settings.reducer_patience)
            rate = self._config.model.learning_rate * settings.reducer_factor**count
            self._model.optimizer.learning_rate = rate

    def _require_finite(self, loss: float, where: str) -> None:
        """Check loss and state: a step can ruin the weights although its loss, computed before, is finite."""
        numbers = {"a finite loss": [loss], "finite weights": self._model.variables}
        numbers["a finite state of the optimizer"] = self._model.optimizer.variables
        for name, variables in numbers.items():
            for array in map(_array, variables):
                if not np.isfinite(array).all():
                    raise ModelError(
                        where,
                        f"expected {name}, got {array[~np.isfinite(array)].flat[0]}",
                        "lower [model] learning_rate or clip the gradients; what was saved before is kept",
                    )

    def _variables(self) -> list[Any]:
        return [*self._model.variables, *self._model.optimizer.variables]

    def _prepare_writing(self) -> None:
        if self._before_first_write is not None:
            self._before_first_write()
            self._before_first_write = None

    def _save_last(self, step: int) -> None:
        self._prepare_writing()
        notes: dict[str, Any] = {"settings": self._settings, "step": step}
        notes["history"] = [to_json(figures) for figures in self.history]
        arrays = [_array(v) for v in self._variables()] + self._sums.totals

        def add_state(folder: Path) -> None:
            np.savez(folder / STATE_FILE, *arrays)
            atomic.write_json(folder / NOTES_FILE, notes)

        card = self._card_after(len(self.history))
        with self._judged_weights():
            model_folder.save_model_folder(self._folder / "last", self._network, card, add=add_state)


class RunningSums:
    """Figures over many batches; Keras clears its metrics at every ``train_on_batch`` and ``test_on_batch``.

    Every metric is a function of sums over pixels or samples (see `networks.metrics`), so the sums of the
    batches' states are the state of all batches together.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.totals: list[np.ndarray] = []

    def clear(self) -> None:
        """Forget the batches so far."""
        self.totals = []

    def add(self) -> None:
        """Add what the metrics hold of the last batch."""
        states = [_array(v) for v in self._model.metrics_variables]
        self.totals = [a + b for a, b in zip(self.totals, states, strict=True)] if self.totals else states

    def figures(self) -> dict[str, float]:
        """Compute loss and metrics over all batches added."""
        for variable, total in zip(self._model.metrics_variables, self.totals, strict=True):
            variable.assign(total)
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def build(self, channels: int, side_px: int) -> None:
        """Create the metrics' variables, which exist only after a first batch."""
        blank = np.zeros((1, side_px, side_px, channels), np.uint8)
        self._model.test_on_batch(blank, np.zeros((1, side_px, side_px), np.uint8))


def judge(
    model: keras.Model,
    ready: Iterable[tuple[np.ndarray, np.ndarray]],
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Compute loss and metrics of a compiled model over batches, as over one large batch."""
    sums = RunningSums(model)
    for images, labels in ready:
        model.test_on_batch(images, labels)
        sums.add()
        progress.advance(1)
    return sums.figures()


@contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Use the averaged weights, where the optimizer keeps an average; restore the raw ones afterwards."""
    if not getattr(model.optimizer, "use_ema", False) or not model.optimizer.built:
        yield
        return
    raw = [_array(v) for v in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for variable in model.trainable_variables:
        # On JAX the weights now share their buffers with the average, and the next step would give both away.
        variable.assign(_array(variable))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)


def _array(variable: Any) -> np.ndarray:
    """Copy a variable's value."""
    return np.array(keras.ops.convert_to_numpy(variable))
