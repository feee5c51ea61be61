"""Training checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import ConfigError, ModelError
from glomtile.training.callbacks import from_json

STATE, NOTES = "training.npz", "training.json"

TRAINING_DATA, VALIDATION_DATA = "data.training", "data.validation"
"""Among the settings of a run: the files it learns from, and those that judge its epochs."""


def files_changed(count: int, digest: str) -> str:
    """So many images, and a digest over what they are called and how large they are, in words."""
    return f"{count} images, their names and sizes {digest[:12]}"


def read_notes(last: Path) -> dict[str, Any]:
    """Settings, history and step of the run whose last model is in a folder.

    Raises
    ------
    ModelError
        There are none, or they are damaged.
    """
    try:
        notes = json.loads((last / NOTES).read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            last, "expected the state of a run to resume, found none", "train without --resume"
        ) from None
    except (OSError, ValueError) as problem:
        raise ModelError(last / NOTES, f"expected a readable run state, got {problem}") from problem
    kinds = {"settings": dict, "history": list, "step": int}
    for key, kind in kinds.items():
        value = notes.get(key) if isinstance(notes, dict) else notes
        if not isinstance(value, kind):
            raise ModelError(
                last / NOTES, f"expected {key} of a run as {kind.__name__}, got {type(value).__name__}"
            )
    if not all(isinstance(figures, dict) for figures in notes["history"]):
        raise ModelError(last / NOTES, "expected history of a run as a list of dict, got other things in it")
    return {**notes, "history": [from_json(figures) for figures in notes["history"]]}


def require_same(then: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Refuse to go on with other settings or other data than a run began with.

    Parameters
    ----------
    then, now : dict
        Whatever decides the numbers, by name.
    where : Path
        Named by the error.

    Raises
    ------
    ConfigError
        They differ; the first differences are named.
    """
    differing = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k)]
    if differing:
        told = "; ".join(f"{k}: {then.get(k)!r} then, {now.get(k)!r} now" for k in differing[:5])
        told += f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            where,
            f"expected the settings and data that the run began with, got other ones: {told}",
            "train without --resume to begin anew; the old run is moved aside",
        )


def assign(variables: list[Any], state: Any, where: Path) -> list[np.ndarray]:
    """Give each variable its saved value, in order; returns the values.

    Raises
    ------
    ModelError
        There are more or fewer values, or one of another shape.
    """
    if len(variables) != len(state.files):
        raise ModelError(where, f"expected {len(variables)} arrays, found {len(state.files)}")
    values = [state[f"arr_{i}"] for i in range(len(variables))]
    for variable, value in zip(variables, values, strict=True):
        if value.shape != tuple(variable.shape):
            raise ModelError(where, f"expected {variable.path} of shape {variable.shape}, got {value.shape}")
        variable.assign(value)
    return values
