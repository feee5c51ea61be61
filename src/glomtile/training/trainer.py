"""Training loop.

What is saved is everything the next step depends on: weights, optimizer variables, the dropout layers' seed
states, running metrics, and the history from which rate and patience follow. Samples need no state
(see `engine.dataset`). So a run that was killed continues with the same numbers as one that was not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from glomtile.config.model_card import ModelCard
from glomtile.errors import ModelError
from glomtile.formatting import duration
from glomtile.io import atomic
from glomtile.models import folder as model_folder
from glomtile.training.callbacks import EpochEnd, History, Listener, reductions, stale_epochs, to_json, values
from glomtile.training.checkpoint import (
    NOTES,
    STATE,
    TRAINING_DATA,
    assign,
    files_changed,
    read_notes,
    require_same,
)
from glomtile.training.samples import SampleSource, batches
from glomtile.types import SILENT, Progress


@dataclass(frozen=True)
class Protocol:
    """How to train, apart from network, loss and data.

    Attributes
    ----------
    epochs, batch_size : int
    monitor : str
        The figure that decides what is best.
    patience : int
        Epochs without a better figure before training stops; 0 or less: never.
    reducer_patience : int
        Epochs of plateau before the rate is multiplied by `reducer_factor`; 0: never.
    reducer_factor : float
    learning_rate : float
        The rate that the reducer starts from.
    checkpoint_steps : int
        Save the state after so many steps within an epoch too; 0: only after epochs.
    workers : int
        Threads that prepare samples.
    break_file : Path or None
        A file whose appearance stops the training after the epoch.
    settings : dict
        Whatever decides the numbers, the data too; a resumed run must agree with it.
    defaults : dict
        What a run had in place of a setting that did not exist yet.
    """

    epochs: int
    batch_size: int
    monitor: str
    patience: int
    reducer_patience: int
    reducer_factor: float
    learning_rate: float
    checkpoint_steps: int
    workers: int
    break_file: Path | None
    settings: dict[str, Any]
    defaults: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the history, the best epoch (from 1) and why it stopped."""

    history: History
    best_epoch: int
    reason: str


def deterministic(seed: int) -> None:
    """Seed Python, NumPy and the backend, and ask TensorFlow for repeatable sums (reference §6.8).

    TensorFlow's deterministic kernels are not enough: its sum of three or more gradients begins with the
    one whose buffer happens to be free, so operations must run one after the other (each still on all
    processors). Only a process in which TensorFlow has not begun to work can be told so; in another, a
    warning says that the last bits may differ.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        try:
            if tf.config.threading.get_inter_op_parallelism_threads() != 1:
                tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            warnings.warn(
                "TensorFlow was at work before training began, with operations side by side: "
                "a second run may differ in the last bits",
                stacklevel=2,
            )
    keras.utils.set_random_seed(seed)


class Training:
    """One run: a compiled network, its data, and the folder that holds its best and last model.

    Parameters
    ----------
    network : keras.Model
        Not compiled; saved without optimizer.
    model : keras.Model
        Compiled; of the same layers, or of like ones in another precision.
    card : ModelCard
        What both model folders say of themselves.
    folder : Path
        ``best/`` and ``last/`` are written here.
    protocol : Protocol
    """

    def __init__(
        self,
        network: keras.Model,
        model: keras.Model,
        card: ModelCard,
        folder: Path,
        protocol: Protocol,
    ) -> None:
        self._network = network
        self._model = model
        self._card = card
        self._folder = folder
        self._protocol = protocol
        self._history: History = []
        self._epoch_start = 0
        self._make_way: Callable[[], None] | None = None
        self._sums = RunningSums(model)
        self._one_set_of_weights = network.weights[0] is model.weights[0]

    def resume(self) -> int:
        """Take up the state of ``last/``; returns the number of finished epochs.

        Raises
        ------
        ModelError
            When there is no state, or it is damaged.
        ConfigError
            When it belongs to other settings or other data.
        """
        last = self._folder / "last"
        for folder in (self._folder / "best", last):
            atomic.restore_folder(folder)
        notes = read_notes(last)
        then, now = notes["settings"], self._protocol.settings
        require_same(self._protocol.defaults | then, now, last)
        if TRAINING_DATA not in then and TRAINING_DATA in now:  # begun before its notes told of the data
            learnt = model_folder.read_card(last).data
            if learnt.digest:
                told = files_changed(learnt.images, learnt.digest)
                require_same({TRAINING_DATA: told}, {TRAINING_DATA: now[TRAINING_DATA]}, last)
        self._model.optimizer.build(self._model.trainable_variables)
        self._sums.build(self._network.input_shape[-1], self._card.stride_px)
        try:
            with np.load(last / STATE, allow_pickle=False) as state:
                arrays = assign([*self._variables(), *self._model.metrics_variables], state, last / STATE)
        except (OSError, ValueError, EOFError, BadZipFile) as problem:
            # NumPy's words for what is no archive advise to read it as a pickle.
            got = "something else" if isinstance(problem, ValueError) else problem
            raise ModelError(
                last / STATE,
                f"expected the arrays of a run state, got: {got}",
                "the run cannot be resumed",
            ) from problem
        self._sums.totals = arrays[len(self._variables()) :]
        self._history = notes["history"]
        self._epoch_start = notes["step"]
        return len(self._history)

    def run(
        self,
        training: SampleSource,
        validation: SampleSource | None,
        listeners: Sequence[Listener] = (),
        before_first_write: Callable[[], None] = lambda: None,
        progress: Progress = SILENT,
    ) -> Outcome:
        """Train to the end of the protocol.

        Parameters
        ----------
        training : SampleSource
        validation : SampleSource or None
            ``None``: nothing is judged, there is no ``best/``, and the monitored figure is a training figure.
        listeners : sequence of callable
            Told of every epoch's end.
        make_way : callable
            Called once, before the first file is written: what fails until then, fails without a trace.
        progress : Progress

        Returns
        -------
        Outcome
        """
        self._make_way = before_first_write
        protocol, reason = self._protocol, "all epochs done"
        while len(self._history) < protocol.epochs:
            if self._should_stop():
                reason = f"no better {protocol.monitor} for {protocol.patience} epochs"
                break
            self._epoch(training, validation, listeners, progress)
            if protocol.break_file is not None and protocol.break_file.exists():
                protocol.break_file.unlink()
                reason = f"stopped by {protocol.break_file.name}"
                break
        figures = values(self._history, protocol.monitor)
        return Outcome(self._history, len(figures) - stale_epochs(figures), reason)

    def _epoch(
        self,
        training: SampleSource,
        validation: SampleSource | None,
        listeners: Sequence[Listener],
        progress: Progress,
    ) -> None:
        began, whole = perf_counter(), self._epoch_start == 0
        protocol, number = self._protocol, len(self._history)
        self._set_rate()
        if self._epoch_start == 0:
            self._sums.clear()
        steps = -(-len(training) // protocol.batch_size)
        progress.start(f"epoch {number + 1}/{protocol.epochs}", steps)
        if self._epoch_start:
            progress.advance(self._epoch_start)
        figures: dict[str, float] = {}
        ready = batches(
            training, protocol.batch_size, number, start=self._epoch_start, workers=protocol.workers
        )
        for step, (images, labels) in enumerate(ready, self._epoch_start + 1):
            self._model.train_on_batch(images, labels)
            self._sums.add()
            figures = self._sums.figures()
            progress.advance(1, **figures)
            if protocol.checkpoint_steps and step % protocol.checkpoint_steps == 0 and step < steps:
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
            self._history.append(figures | {"learning_rate": rate})
            self._clear_the_way()
            is_best = stale_epochs(values(self._history, protocol.monitor)) == 0
            if validation is not None and is_best:
                model_folder.save_model_folder(self._folder / "best", self._network, self._told(number + 1))
            end = EpochEnd(number + 1, self._history, self._network)
            for listener in listeners:
                listener(end)
        self._save_last(0)
        if np.isnan(self._history[-1][protocol.monitor]):
            progress.warn(f"epoch {number + 1}: {protocol.monitor} is not a number and counts as no better")
        line = _line(number + 1, protocol.epochs, self._history[-1])
        epoch_s, left = perf_counter() - began, protocol.epochs - number - 1
        ending = f", {duration(left * epoch_s)} left" if left and whole else ""
        progress.note(f"{line} · {duration(epoch_s)}{ending}")

    @contextmanager
    def _judged_weights(self) -> Iterator[None]:
        """The averaged weights where there is an average, in the network that is saved too."""
        with averaged(self._model):
            if not self._one_set_of_weights:
                self._network.set_weights(self._model.get_weights())
            yield

    def _told(self, epoch: int) -> ModelCard:
        """The card with what is known after `epoch`."""
        figures = self._history[-1] if self._history else {}
        judged = {name: value for name, value in figures.items() if name.startswith("val_")}
        return self._card.model_copy(update={"epoch": epoch, "scores": {"validation": judged}})

    def _validate(self, validation: SampleSource, progress: Progress) -> dict[str, float]:
        progress.start("validating", -(-len(validation) // self._protocol.batch_size))
        ready = batches(validation, self._protocol.batch_size, 0, workers=self._protocol.workers)
        return judge(self._model, ready, progress)

    def _should_stop(self) -> bool:
        patience = self._protocol.patience
        return patience > 0 and stale_epochs(values(self._history, self._protocol.monitor)) >= patience

    def _set_rate(self) -> None:
        """Lower the rate as often as the history asks; a schedule keeps its own."""
        protocol = self._protocol
        if protocol.reducer_patience <= 0:
            return
        count = reductions(values(self._history, protocol.monitor), protocol.reducer_patience)
        self._model.optimizer.learning_rate = protocol.learning_rate * protocol.reducer_factor**count

    def _require_finite(self, loss: float, where: str) -> None:
        """End a run that has gone astray, before anything of it is saved.

        A step can ruin the weights although its own loss, computed before it, was finite.
        """
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

    def _clear_the_way(self) -> None:
        if self._make_way is not None:
            self._make_way()
            self._make_way = None

    def _save_last(self, step: int) -> None:
        self._clear_the_way()
        notes: dict[str, Any] = {"settings": self._protocol.settings, "step": step}
        notes["history"] = [to_json(figures) for figures in self._history]
        arrays = [_array(v) for v in self._variables()] + self._sums.totals

        def add_state(folder: Path) -> None:
            np.savez(folder / STATE, *arrays)
            atomic.write_json(folder / NOTES, notes)

        told = self._told(len(self._history))
        with self._judged_weights():
            model_folder.save_model_folder(self._folder / "last", self._network, told, add=add_state)


class RunningSums:
    """Figures over many batches: Keras clears its metrics at every ``train_on_batch`` and ``test_on_batch``.

    Every metric here is a function of sums over pixels or samples (see `nets.metrics`), so the sums of the
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
        """Loss and metrics over all batches added."""
        for variable, total in zip(self._model.metrics_variables, self.totals, strict=True):
            variable.assign(total)
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def build(self, channels: int, side_px: int) -> None:
        """Give the metrics their variables, which they only have after a first batch."""
        blank = np.zeros((1, side_px, side_px, channels), np.uint8)
        self._model.test_on_batch(blank, np.zeros((1, side_px, side_px), np.uint8))


def judge(
    model: keras.Model,
    ready: Iterable[tuple[np.ndarray, np.ndarray]],
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Loss and metrics of a compiled model over batches, as over one large batch."""
    sums = RunningSums(model)
    for images, labels in ready:
        model.test_on_batch(images, labels)
        sums.add()
        progress.advance(1)
    return sums.figures()


@contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """The model with its averaged weights, where the optimizer keeps an average; the raw ones afterwards."""
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
    """A variable's value, in memory of its own."""
    return np.array(keras.ops.convert_to_numpy(variable))


def _line(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    shown = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
    return f"epoch {epoch}/{epochs}  {shown}"
