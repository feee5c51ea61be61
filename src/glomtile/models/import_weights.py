"""Import of weights from the reference system."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile.config.model_card import ModelCard, TrainingData
from glomtile.errors import ModelError, UsageError
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    import keras

    from glomtile.config.schema import Config

_WHOLE_MODEL = "model_weights"


def import_weights(weights: Path, config: Config, out: Path, *, progress: Progress = SILENT) -> Path:
    """Make a model folder of a legacy Keras weight file.

    Parameters
    ----------
    weights : Path
        ``.h5`` as ``save_weights`` or ``save`` wrote it before Keras 3, and Keras 3's ``save`` still does.
        Only its arrays are read; nothing in it is run, so a Lambda layer there does no harm.
    config : Config
        Describes the same network: the reference's own config file does.
    out : Path
        A folder that does not exist yet.
    progress : Progress

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    ModelError
        The file is no such file, or a layer's arrays are not those that the config's network has.
    UsageError
        `out` exists.
    ConfigError
        The config describes no network that is built here.
    StorageError
        `out` cannot be written.
    """
    if out.exists():
        raise UsageError("--out", f"expected a name that is free, got {out}, which exists", "remove it first")
    from glomtile.models.folder import save_model_folder
    from glomtile.networks.registry import build_model, geometry

    model = build_model(config.model, seed=config.train.seed)
    with _opened(weights) as file:
        taken = _take(model, file, weights)
    seen = geometry(config.model)
    card = ModelCard(
        network=config.model,
        classes=ModelCard.classes_of(config.palette()),
        color_order=config.image.color_order,
        mpp=config.model.mpp,
        tile_px=(config.model.image_height, config.model.image_width),
        overlap_px=config.tiledinfer.overlapping,
        tta=config.tiledinfer.tta,
        threshold=config.tiledinfer.threshold,
        smoothing_px=config.tiledinfer.smoothing_px,
        min_expected_dice=config.tiledinfer.min_expected_dice,
        stride_px=seen.stride_px,
        context_px=seen.context_px,
        data=TrainingData(name=f"unknown: imported from {weights.name}"),
        seed=config.train.seed,
    )
    save_model_folder(out, model, card)
    progress.note(f"{weights}: {taken} layers, {model.count_params():,} parameters")
    return out


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield the HDF5 group of the layers."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise ModelError(path, "expected a weight file, it does not exist") from None
    except OSError as problem:
        raise ModelError(path, f"expected an HDF5 file of weights, got: {problem}") from problem
    with file:
        group = _member(file, _WHOLE_MODEL, path) if _WHOLE_MODEL in file else file
        if not _names(group, "layer_names"):
            newer = "layers" in group or "_layer_checkpoint_dependencies" in group
            raise ModelError(
                path,
                "expected weights in the legacy layout, with the attribute layer_names, got "
                + ("those of Keras 3" if newer else "another HDF5 file"),
                "load them with Keras, and save the model as model.h5" if newer else None,
            )
        yield group


def _take(model: keras.Model, group: Any, path: Path) -> int:
    """Give each layer with weights the arrays of the file's next such layer; how many there are."""
    stored = [
        (name, arrays) for name in _names(group, "layer_names") if (arrays := _arrays(group, name, path))
    ]
    layers = [layer for layer in model.layers if layer.weights]
    for layer, (name, arrays) in zip(layers, stored, strict=False):
        expected = [tuple(variable.shape) for variable in layer.weights]
        got = [tuple(array.shape) for array in arrays]
        if expected != got:
            raise ModelError(
                path,
                f"expected for the layer {layer.name} arrays of {_shapes(expected)}, "
                f"got in {name} {_shapes(got)}",
                "the config describes another network than the file: base_filters, base_kernels, num_layers, "
                "normalization and num_classes decide the shapes",
            )
        layer.set_weights([np.asarray(array[()], np.float32) for array in arrays])
    if len(layers) != len(stored):
        raise ModelError(
            path,
            f"expected {len(layers)} layers with weights as the config's network has, got {len(stored)}",
            "num_layers and normalization decide how many there are",
        )
    _require_numbers(model, path)
    return len(layers)


def _require_numbers(model: keras.Model, path: Path) -> None:
    for layer in model.layers:
        if any(not np.isfinite(array).all() for array in layer.get_weights()):
            raise ModelError(path, f"expected finite weights, got others for the layer {layer.name}")


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "none"


def _names(group: Any, attribute: str) -> list[str]:
    """Names in an attribute, which Keras parts in pieces ``name0``, ``name1`` where it is long."""
    if attribute in group.attrs:
        found = list(group.attrs[attribute])
    else:
        pieces = itertools.takewhile(group.attrs.__contains__, (f"{attribute}{i}" for i in itertools.count()))
        found = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in found]


def _arrays(group: Any, layer: str, path: Path) -> list[Any]:
    own = _member(group, layer, path)
    return [_dataset(own, name, path) for name in _names(own, "weight_names")]


def _dataset(group: Any, name: str, path: Path) -> Any:
    import h5py

    *folders, last = name.strip("/").split("/")
    for folder in folders:
        group = _member(group, folder, path)
    found = _member(group, last, path)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f":
        raise ModelError(path, f"expected numbers in {name}, got something else")
    if found.is_virtual or found.external:
        raise ModelError(path, f"expected the numbers of {name} in this file, got a pointer to another")
    return found


def _member(group: Any, name: str, path: Path) -> Any:
    """Return a member of a group that is in this very file."""
    import h5py

    if not isinstance(group, h5py.Group) or name not in group:
        raise ModelError(path, f"expected {name} in the file as it says itself, found none")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ModelError(path, f"expected {name} in this file, got a link to elsewhere")
    return group[name]
