"""Training checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import ConfigError, ModelError
from glomtile.io.atomic import read_json
from glomtile.training.callbacks import from_json

STATE_FILE, NOTES_FILE = "training.npz", "training.json"
_NAMED = 5


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
    notes = read_json(path, "the state of a run", ModelError)
    for key, kind in (("settings", dict), ("history", list), ("step", int)):
        if not isinstance(notes.get(key), kind):
            got = type(notes.get(key)).__name__
            raise ModelError(path, f"expected {key} of a run as {kind.__name__}, got {got}")
    if not all(isinstance(figures, dict) for figures in notes["history"]):
        raise ModelError(path, "expected history of a run as a list of dict, got other items")
    return {**notes, "history": [from_json(figures) for figures in notes["history"]]}


def require_same(then: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Refuse to continue a run with other settings or data.

    Parameters
    ----------
    then, now : dict
        Everything that changes a number, by name.
    where : Path
        For the error.

    Raises
    ------
    ConfigError
        They differ; the first differences are named.
    """
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


def assign(variables: list[Any], state: Any, where: Path) -> list[np.ndarray]:
    """Assign saved values to variables, in order, and return them.

    Raises
    ------
    ModelError
        There are more or fewer values, or one of another shape.
    """
    if len(variables) != len(state.files):
        raise ModelError(where, f"expected {len(variables)} arrays, got {len(state.files)}")
    values = [state[f"arr_{i}"] for i in range(len(variables))]
    for variable, value in zip(variables, values, strict=True):
        if value.shape != tuple(variable.shape):
            raise ModelError(where, f"expected {variable.path} of shape {variable.shape}, got {value.shape}")
        variable.assign(value)
    return values
