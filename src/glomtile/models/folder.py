"""Model folders: saving, loading and checking."""

from __future__ import annotations

import platform
import sys
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
from glomtile.inference.predictor import network_bytes_per_px
from glomtile.io import atomic

if TYPE_CHECKING:
    import keras

    from glomtile.networks.registry import Geometry

NETWORK = "model.keras"

_TRIES = 5
_Read = TypeVar("_Read")
_PACKAGES = ("glomtile", "keras", "numpy", "openvino", "tensorflow-cpu", "tensorflow", "jax", "torch")


@dataclass(frozen=True)
class LoadedModel:
    """A network with its card, as read from a model folder."""

    model: keras.Model
    card: ModelCard

    @property
    def geometry(self) -> Geometry:
        """How the network looks at pixels."""
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
        Store kernels as float16; see `glomtile.inference.halfweights`.

    Returns
    -------
    ModelCard
        As written.
    """
    from glomtile.inference.halfweights import halve_weights

    with atomic.replace_folder(folder) as partial:
        network.save(partial / NETWORK)
        if half_weights:
            halve_weights(partial / NETWORK)
        facts = {
            "sha256": {NETWORK: atomic.sha256(partial / NETWORK)},
            "versions": versions(),
            "bytes_per_px": network_bytes_per_px(network, card.stride_px),
            "runtime": None,
        }
        written = card.model_copy(update=facts)
        atomic.write_text(partial / CARD, written.to_json())
        if add is not None:
            add(partial)
    return written


def read_whole(folder: Path, read: Callable[[Path], _Read]) -> _Read:
    """What is read from a model folder that a training may replace meanwhile; nothing is written.

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
        What `read` raises of a folder that stood still.
    """
    for _ in range(_TRIES):
        before = _number(folder)
        try:
            value = read(folder)
        except GlomtileError:
            if _number(folder) == before:
                raise
        else:
            if _number(folder) == before:
                return value
    raise ModelError(
        folder, "expected a model folder that stays while it is read, got one replaced each time", "try again"
    )


def _number(folder: Path) -> tuple[int, int] | None:
    """Two folders of one name, one after the other, have two numbers."""
    try:
        told = folder.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def load_model_folder(folder: Path) -> LoadedModel:
    """Read a model folder and check that nothing in it has changed since it was written.

    Raises
    ------
    ModelError
        When a file is missing or unreadable, the digest differs, or Keras refuses the network.
    """
    return read_whole(folder, _load)


def _load(folder: Path) -> LoadedModel:
    import keras

    import glomtile.networks.registry  # noqa: F401  (Keras must know our layers)

    card = read_card(folder)
    path = checked_file(folder, card, NETWORK)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as problem:
        raise ModelError(path, f"expected a network that Keras can load, got: {problem}") from problem
    return LoadedModel(model, card)


def checked_file(folder: Path, card: ModelCard, name: str) -> Path:
    """A file of a model folder whose bytes are those that its card names.

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
            f"expected the SHA-256 that {CARD} names, {expected[:12]}…, got {digest[:12]}…",
            "the file is damaged or was exchanged; copy the whole model folder again",
        )
    return path


def bundled_folder() -> Path | None:
    """The folder of the model that comes with the package, where this installation has it."""
    folder = Path(str(files("glomtile"))) / "models" / "bundled" / BUNDLED
    return folder if (folder / CARD).is_file() else None


def model_folder(folder: str | Path | None) -> Path:
    """The model folder that is meant, the bundled one where none is named, or its name and no such folder is.

    Raises
    ------
    ModelError
        It is a file or a training run's folder, or none is bundled.
    """
    if folder is None or (str(folder) == BUNDLED and not Path(folder).exists()):
        bundled = bundled_folder()
        if bundled is None:
            raise ModelError("glomtile", "expected a bundled model, this install holds none", "give -m MODEL")
        return bundled
    folder = Path(folder)
    if folder.name in ("", ".."):  # a name of its own is needed beside it
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
    """What a model folder says of itself, without loading its network; by `read_whole` where it may change.

    Raises
    ------
    ModelError
        When there is no ``model.json``, or it does not say what it must.
    """
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
    """Add figures to ``model.json``; those of the same name are replaced."""
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"scores": card.scores | scores}))


def ancestor(folder: Path, card: ModelCard) -> ParentModel:
    """What the card of a model says of one that its weights come from."""
    place = folder.absolute()
    name = BUNDLED if place == bundled_folder() else f"{place.parent.name}/{place.name}"
    return ParentModel(name=name, sha256=card.sha256[NETWORK], data=card.data, pretrained=card.pretrained)


SHAPING = (
    "model", "image_channels", "mpp", "input_normalize", "num_classes", "base_filters", "base_kernels",
    "num_layers", "dilation", "activation", "final_activation", "norm", "norm_groups", "residual",
    "upsampling",
)  # fmt: skip
"""Settings of ``[model]`` that a trained network has for good."""


def require_classes(card: ModelCard, settings: ModelSettings, num_colours: int, where: object) -> None:
    """Raise unless the model knows the classes of the config.

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
        When the numbers differ.
    """
    pairs = ((len(card.classes), num_colours), (card.network.num_classes, settings.num_classes))
    for trained, told in pairs:
        if trained != told:
            raise ModelError(
                where,
                f"expected a model of {told} classes as the config has, got one of {trained}",
                "use the config the model was trained with, or train anew",
            )


def differences(card: ModelCard, settings: ModelSettings) -> list[str]:
    """Settings of the config that the trained network does not have, in words; the network's count."""
    return [
        f"{key} {then} was trained, the config says {now}"
        for key, then, now in unlike(card.network, settings)
    ]


def unlike(one: ModelSettings, other: ModelSettings) -> list[tuple[str, Any, Any]]:
    """Settings that two networks were shaped by and differ in: key, the one's value, the other's.

    What neither network reads is left out: `norm_groups` without group normalisation.
    """
    grouped = "group" in (one.norm, other.norm)
    pairs = [(key, getattr(one, key), getattr(other, key)) for key in SHAPING]
    return [pair for pair in pairs if pair[1] != pair[2] and (grouped or pair[0] != "norm_groups")]


def versions() -> dict[str, str]:
    """What runs here: Python, the packages that compute, and Keras' backend where Keras is in use."""
    found = {"python": platform.python_version()}
    if "keras" in sys.modules:
        found["backend"] = sys.modules["keras"].backend.backend()
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
