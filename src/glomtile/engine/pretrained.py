"""Training that begins with a trained network: which one is meant, whether it fits, what is taken of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glomtile.config.card import FILE_NAME as CARD
from glomtile.config.card import Ancestor, ModelCard
from glomtile.config.schema import Config
from glomtile.engine import modelfolder
from glomtile.errors import ConfigError, ModelError
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    import keras

HEAD = "logits"
"""The layer that answers for the classes, which alone begins anew where their number is another."""

_FREE = ("model", "mpp", "num_classes", "final_activation")
"""Of the settings that shape a network, those that may differ: names, and what the head or training mends."""


@dataclass(frozen=True)
class Beginning:
    """The model folder that a training begins with.

    Attributes
    ----------
    name : str
        As the config has it.
    folder : Path
    card : ModelCard
    """

    name: str
    folder: Path
    card: ModelCard

    @property
    def digest(self) -> str:
        """SHA-256 of its network's file."""
        return self.card.sha256[modelfolder.NETWORK]

    @property
    def record(self) -> Ancestor:
        """What the new model's card says of it."""
        return modelfolder.ancestor(self.folder, self.card)


def address(config: Config) -> str | None:
    """What ``[train] pretrained`` would be in a config that lies elsewhere; `None` where it names none."""
    asked = config.train.pretrained
    return None if asked is None else _meant(config.resolve(asked), asked)


def named(model: str) -> tuple[str, ModelCard]:
    """How a config names a model that is given from the current folder, and what it says of itself.

    Raises
    ------
    ModelError
        There is no such model folder, or it holds no trained network.
    """
    meant = _meant(Path(model).absolute(), Path(model))
    return meant, _card(_folder(meant))


def _meant(folder: Path, asked: Path) -> str:
    """A folder comes before the bundled model of that name."""
    bundled = asked.as_posix() == modelfolder.BUNDLED and not folder.exists()
    return modelfolder.BUNDLED if bundled else str(folder)


def _folder(meant: str) -> Path:
    return modelfolder.model_folder(None if meant == modelfolder.BUNDLED else meant)


def _card(folder: Path) -> ModelCard:
    card = modelfolder.read_whole(folder, modelfolder.read_card)
    if modelfolder.NETWORK not in card.sha256:
        raise ModelError(
            folder, f"expected the digest of {modelfolder.NETWORK} in {CARD}, got a card without"
        )
    if card.members:
        raise ModelError(
            folder,
            f"expected a network to begin with, got an ensemble of {len(card.members)}",
            "begin with one of its members",
        )
    return card


def beginning(config: Config) -> Beginning | None:
    """The model that ``[train] pretrained`` names, seen to fit; ``None`` where it names none.

    Raises
    ------
    ModelError
        There is no such model folder, or it holds no trained network.
    ConfigError
        The config describes another network.
    """
    meant, asked = address(config), config.train.pretrained
    if meant is None or asked is None:
        return None
    folder = _folder(meant)
    card = _card(folder)
    _require_same_shape(config, card, asked)
    return Beginning(asked.as_posix(), folder, card)


def _require_same_shape(config: Config, card: ModelCard, asked: Path) -> None:
    pairs = [("image", "color_order", card.color_order, config.image.color_order)]
    pairs += [
        ("model", key, getattr(card.network, key), getattr(config.model, key))
        for key in modelfolder.SHAPING
        if key not in _FREE
    ]
    wrong = [pair for pair in pairs if pair[2] != pair[3]]
    if not wrong:
        return
    section, key, then, now = wrong[0]
    others = "".join(f"; [{part}] {name} {old!r}, got {new!r}" for part, name, old, new in wrong[1:])
    raise ConfigError(
        f"{config.source or 'config'} [{section}] {key}",
        f"expected {then!r} as in {asked.as_posix()}, which training begins with, got {now!r}{others}",
        f"glomtile config init --pretrained {asked.as_posix()} prints settings that fit",
    )


def begin_with(
    network: keras.Model, start: Beginning, mpp: float | None = None, progress: Progress = SILENT
) -> None:
    """Give a new network the weights of a trained one.

    Parameters
    ----------
    network : keras.Model
        As `nets.registry.build_model` makes it.
    start : Beginning
    mpp : float or None
        Micrometres per pixel that it is to be trained at.
    progress : Progress
        Is told what was taken, what begins anew, and warned of another scale.

    Raises
    ------
    ModelError
        The folder is damaged or has been replaced since it was looked at, or its network has other layers.
    """
    loaded = modelfolder.load_model_folder(start.folder)
    if loaded.card.sha256 != start.card.sha256:
        raise ModelError(
            start.folder, "expected a model folder that stays while it is read, got another", "try again"
        )
    given = {layer.name: layer.get_weights() for layer in loaded.model.layers if layer.weights}
    wanted = {layer.name: layer for layer in network.layers if layer.weights}
    anew = []
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())
        raise ModelError(start.folder, f"expected the layers of {network.name}, got others: {', '.join(odd)}")
    for name, layer in wanted.items():
        shapes = [tuple(variable.shape) for variable in layer.weights]
        if shapes == [array.shape for array in given[name]]:
            layer.set_weights(given[name])
        elif name == HEAD:
            anew.append(name)
        else:
            got = ", ".join("x".join(map(str, array.shape)) for array in given[name])
            expected = ", ".join("x".join(map(str, shape)) for shape in shapes)
            raise ModelError(start.folder, f"expected arrays of {expected} for the layer {name}, got {got}")
    classes = f", but for its {len(start.card.classes)} classes: the last layer begins anew" if anew else ""
    progress.note(f"training begins with the weights of {start.name}{classes}")
    if mpp != start.card.mpp:
        then, now = (
            f"{scale:g} µm per pixel" if scale else "no known scale" for scale in (start.card.mpp, mpp)
        )
        progress.warn(f"[train] pretrained: {start.name} was trained at {then}, [model] mpp says {now}")
