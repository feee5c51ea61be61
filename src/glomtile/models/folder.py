"""Model folders: saving, loading and checking."""

from __future__ import annotations

import io
import platform
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glomtile.config.model_card import BUNDLED, ModelCard, ParentModel
from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.schema import ModelSettings
from glomtile.errors import GlomtileError, ModelError
from glomtile.io import atomic

if TYPE_CHECKING:
    import keras

    from glomtile.networks.registry import Geometry

NETWORK = "model.keras"

_TRIES = 5
_WEIGHTS = "model.weights.h5"
_T = TypeVar("_T")
_PACKAGES = (
    "glomtile", "keras", "numpy", "opencv-python-headless", "openvino", "tensorflow-cpu", "tensorflow",
    "jax", "torch",
)  # fmt: skip

NETWORK_SETTINGS = (
    "model", "image_channels", "mpp", "input_normalize", "num_classes", "base_filters", "base_kernels",
    "num_layers", "dilation", "activation", "final_activation", "norm", "norm_groups", "residual",
    "upsampling", "encoder", "decoder_filters", "decoder_width", "decoder_upsampling",
)  # fmt: skip
"""Settings of ``[model]`` that are fixed once a network is built."""


@dataclass(frozen=True)
class LoadedModel:
    """A network with its card, as read from a model folder."""

    model: keras.Model
    card: ModelCard

    @property
    def geometry(self) -> Geometry:
        """Stride and context of the network."""
        from glomtile.networks.registry import geometry

        return geometry(self.card.network)


def save_model_folder(
    folder: Path,
    network: keras.Model,
    card: ModelCard,
    *,
    add: Callable[[Path], None] | None = None,
    half_weights: bool = False,
) -> ModelCard:
    """Write a model folder, whole or not at all.

    Parameters
    ----------
    folder : Path
        Replaced when it exists.
    network : keras.Model
        Not compiled, so that no optimizer is saved with it.
    card : ModelCard
        Its digest and versions are filled in here.
    add : callable, optional
        Writes more files into the folder it is given.
    half_weights : bool
        Store kernels as float16.

    Returns
    -------
    ModelCard
        As written.
    """
    from glomtile.networks.profiling import network_bytes_per_px

    with atomic.replace_folder(folder) as partial:
        network.save(partial / NETWORK)
        if half_weights:
            _halve_weights(partial / NETWORK)
        facts = {
            "sha256": {NETWORK: atomic.sha256(partial / NETWORK)},
            "versions": versions(),
            "bytes_per_px": network_bytes_per_px(network, card.stride_px),
            "runtime": None,
        }
        written = card.model_copy(update=facts)
        write_card(partial, written)
        if add is not None:
            add(partial)
    return written


def _halve_weights(path: Path) -> None:
    """Rewrite a ``.keras`` file with its kernels rounded to float16.

    Keras assigns stored arrays to variables, which keep their float32. Arrays of one axis (biases,
    statistics) stay as they are: they are small, and variances may be too small for float16.
    """
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    parts[_WEIGHTS] = _halved(parts[_WEIGHTS])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)


def _halved(content: bytes) -> bytes:
    import h5py
    import numpy as np

    from glomtile.networks.onnx import as_float16

    target = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name: str, entry: Any) -> None:
            if isinstance(entry, h5py.Group):
                copied = new.require_group(name)
            else:
                values = entry[()]
                if values.dtype == np.float32 and values.ndim > 1:
                    values = as_float16(values, name)
                copied = new.create_dataset(name, data=values)
            copied.attrs.update(entry.attrs)

        old.visititems(copy)
    return target.getvalue()


def read_whole(folder: Path, read: Callable[[Path], _T]) -> _T:
    """Read several files of a model folder that a training may replace meanwhile.

    Parameters
    ----------
    folder : Path
    read : callable
        Called with `folder`, and again when the folder was replaced meanwhile.

    Raises
    ------
    ModelError
        The folder was replaced at each of several tries.
    GlomtileError
        Raised by `read` for a folder that was not replaced.
    """
    for _ in range(_TRIES):
        before = _inode(folder)
        try:
            value = read(folder)
        except GlomtileError:
            if _inode(folder) == before:
                raise
        else:
            if _inode(folder) == before:
                return value
    raise ModelError(
        folder, "expected a model folder that is not written, got one replaced each time", "try again"
    )


def _inode(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def load_model_folder(folder: Path) -> LoadedModel:
    """Read a model folder and check that nothing in it has changed since it was written.

    Raises
    ------
    ModelError
        A file is missing or unreadable, a digest differs, or Keras refuses the network.
    """
    return read_whole(folder, _load)


def _load(folder: Path) -> LoadedModel:
    import keras

    import glomtile.networks.registry  # noqa: F401  (registers our layers with Keras)

    card = _read_card(folder)
    path = checked_file(folder, card, NETWORK)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as problem:
        raise ModelError(path, f"expected a network that Keras can load, got: {problem}") from problem
    return LoadedModel(model, card)


def checked_file(folder: Path, card: ModelCard, name: str) -> Path:
    """Return the path of a file of a model folder after comparing its digest with the card's.

    Raises
    ------
    ModelError
        The file is missing, or was changed or exchanged.
    """
    path = folder / name
    if not path.is_file():
        again = "" if name == NETWORK else ", or make it again with glomtile export MODEL"
        raise ModelError(
            folder, f"expected {name} beside {CARD}, found none", f"copy the whole model folder again{again}"
        )
    digest = atomic.sha256(path)
    expected = card.sha256.get(name, "none")
    if digest != expected:
        raise ModelError(
            path,
            f"expected the SHA-256 in {CARD}, {expected[:12]}…, got {digest[:12]}…",
            "the file is damaged or was exchanged; copy the whole model folder again",
        )
    return path


def bundled_folder() -> Path | None:
    """Return the folder of the bundled model, None if this installation has none."""
    folder = Path(str(files("glomtile"))) / "models" / "bundled" / BUNDLED
    return folder if (folder / CARD).is_file() else None


def model_folder(folder: str | Path | None) -> Path:
    """Find a model folder; the bundled one by default, or by its name where no such folder exists.

    Raises
    ------
    ModelError
        It is a file or a training run's folder, or no model is bundled.
    """
    if folder is None or (str(folder) == BUNDLED and not Path(folder).exists()):
        bundled = bundled_folder()
        if bundled is None:
            raise ModelError("glomtile", "expected a bundled model, this install has none", "give -m MODEL")
        return bundled
    folder = Path(folder)
    if folder.name in ("", ".."):  # replacing it needs a name beside it
        folder = folder.resolve()
    if folder.is_file():
        inside = (folder.parent / CARD).is_file()
        raise ModelError(
            folder,
            "expected a model folder, got a file",
            f"perhaps {folder.parent}" if inside else f"a model folder holds {CARD} and {NETWORK}",
        )
    if not (folder / CARD).exists() and (folder / "best" / CARD).exists():
        raise ModelError(
            folder, "expected a model folder, got that of a training run", f"perhaps {folder / 'best'}"
        )
    return folder


def read_card(folder: Path) -> ModelCard:
    """Read the card of a model folder, without its network.

    Raises
    ------
    ModelError
        There is no ``model.json``, or it is damaged.
    """
    return read_whole(folder, _read_card)


def _read_card(folder: Path) -> ModelCard:
    path = folder / CARD
    try:
        return ModelCard.from_json(path.read_text("utf-8"), path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            folder, f"expected a model folder with {CARD}, found none", "train first, or name another folder"
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError(path, f"expected a readable text, got: {problem}") from problem


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``model.json``, whole or not at all."""
    atomic.write_text(folder / CARD, card.to_json())


def add_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Add scores to ``model.json``; those of the same name are replaced."""
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"scores": card.scores | scores}))


def parent_model(folder: Path, card: ModelCard) -> ParentModel:
    """Describe the model of a folder as the parent of another."""
    place = folder.absolute()
    name = BUNDLED if place == bundled_folder() else f"{place.parent.name}/{place.name}"
    return ParentModel(
        name=name,
        sha256=card.sha256[NETWORK],
        data=card.data,
        pretrained=card.pretrained,
        encoder_weights=card.encoder_weights,
    )


def require_classes(card: ModelCard, settings: ModelSettings, num_colours: int, where: object) -> None:
    """Raise unless the model has the classes of the config.

    Parameters
    ----------
    card : ModelCard
    settings : ModelSettings
        ``[model]`` of the config.
    num_colours : int
        Classes of its palette.
    where : object
        The model folder, named in the error.

    Raises
    ------
    ModelError
        The numbers differ.
    """
    pairs = ((len(card.classes), num_colours), (card.network.num_classes, settings.num_classes))
    for trained, wanted in pairs:
        if trained != wanted:
            raise ModelError(
                where,
                f"expected a model of {wanted} classes as in the config, got one of {trained}",
                "use the config the model was trained with, or train again",
            )


def differences(card: ModelCard, settings: ModelSettings) -> list[str]:
    """Describe the settings of a config that the trained network does not have."""
    return [
        f"{key} {trained} was trained, the config has {now}"
        for key, trained, now in different_settings(card.network, settings)
    ]


def different_settings(one: ModelSettings, other: ModelSettings) -> list[tuple[str, Any, Any]]:
    """Return the settings of two networks that differ: key, value of one, value of the other.

    Keys that neither network reads do not count, nor `norm_groups` without group normalisation.
    """
    grouped = "group" in (one.norm, other.norm)
    keys = [key for key in NETWORK_SETTINGS if one.reads(key) or other.reads(key)]
    pairs = [(key, getattr(one, key), getattr(other, key)) for key in keys]
    return [pair for pair in pairs if pair[1] != pair[2] and (grouped or pair[0] != "norm_groups")]


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that compute, and Keras' backend if Keras is loaded."""
    found = {"python": platform.python_version()}
    if "keras" in sys.modules:
        found["backend"] = sys.modules["keras"].backend.backend()
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
