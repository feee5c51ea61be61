"""Initial weights taken from a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glomtile.config.model_card import BUNDLED, ModelCard, ParentModel
from glomtile.config.schema import Config, network_name
from glomtile.errors import ConfigError, ModelError
from glomtile.models import folder as model_folder
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    import keras

_FREE = ("model", "mpp", "num_classes", "final_activation")
"""Of the settings that shape a network, those that may differ: names, and what the head or training mends."""


@dataclass(frozen=True)
class PretrainedWeights:
    """The model folder that a training begins with.

    Attributes
    ----------
    name : str
        As the config has it.
    address : str
        As a config that lies elsewhere has it.
    folder : Path
    card : ModelCard
    """

    name: str
    address: str
    folder: Path
    card: ModelCard

    @property
    def digest(self) -> str:
        """SHA-256 of its network's file."""
        return self.card.sha256[model_folder.NETWORK]

    @property
    def record(self) -> ParentModel:
        """Return the entry for the new model's card."""
        return model_folder.parent_model(self.folder, self.card)


def named(model: str) -> tuple[str, ModelCard]:
    """Return the name of a model in a config, relative to the current folder, and its card.

    Raises
    ------
    ModelError
        There is no such model folder, or it holds no trained network.
    """
    meant = _meant(Path(model).absolute(), Path(model))
    return meant, _card(_folder(meant))


def _meant(folder: Path, asked: Path) -> str:
    """Prefer a folder to the bundled model of that name."""
    bundled = asked.as_posix() == BUNDLED and not folder.exists()
    return BUNDLED if bundled else str(folder)


def _folder(meant: str) -> Path:
    """Return the folder at an address; the bundled model's address is its name."""
    return model_folder.model_folder(None if meant == BUNDLED else meant)


def _card(folder: Path) -> ModelCard:
    """Read the card of a model and compare its network's digest."""

    def read(place: Path) -> ModelCard:
        card = model_folder.read_card(place)
        model_folder.checked_file(place, card, model_folder.NETWORK)
        return card

    card = model_folder.read_whole(folder, read)
    if card.members:
        raise ModelError(
            folder,
            f"expected a network to begin with, got an ensemble of {len(card.members)}",
            "begin with one of its members",
        )
    return card


def load_pretrained(config: Config) -> PretrainedWeights | None:
    """Return the model of ``[train] pretrained`` after comparing its network with the config.

    Raises
    ------
    ModelError
        There is no such model folder, or it holds no trained network.
    ConfigError
        There is no folder of that name, or the config describes another network.
    """
    asked = config.train.pretrained
    if asked is None:
        return None
    address = _meant(config.resolve(asked), asked)
    if address != BUNDLED and not Path(address).exists():
        raise ConfigError(
            f"{config.source or 'config'} [train] pretrained",
            f"expected a model folder, or {BUNDLED}, got {asked.as_posix()}, which is not there",
        )
    folder = _folder(address)
    card = _card(folder)
    _require_same_shape(config, card, asked)
    return PretrainedWeights(asked.as_posix(), address, folder, card)


def _require_same_shape(config: Config, card: ModelCard, asked: Path) -> None:
    wrong = [
        ("model", key, then, now)
        for key, then, now in model_folder.different_settings(card.network, config.model)
        if key not in _FREE or (key == "model" and network_name(then) != network_name(now))
    ]
    if card.color_order != config.image.color_order:
        wrong.append(("image", "color_order", card.color_order, config.image.color_order))
    if not wrong:
        return
    section, key, then, now = wrong[0]
    others = "".join(
        f"; [{part}] {name}: expected {old!r}, got {new!r}" for part, name, old, new in wrong[1:]
    )
    raise ConfigError(
        f"{config.source or 'config'} [{section}] {key}",
        f"expected {then!r} as in {asked.as_posix()}, which training begins with, got {now!r}{others}",
        f"glomtile config init --pretrained {asked.as_posix()} prints settings that fit",
    )


def apply_pretrained(
    network: keras.Model, start: PretrainedWeights, config: Config, progress: Progress = SILENT
) -> None:
    """Give a new network the weights of a trained one.

    Parameters
    ----------
    network : keras.Model
        The new network, from `networks.registry.build_model`.
    start : PretrainedWeights
    config : Config
    progress : Progress
        Receives notes on what was used or initialised anew, and warnings about another mpp or class names.

    Raises
    ------
    ModelError
        The folder is damaged or has been replaced since it was looked at, or its network has other layers.
    """
    from glomtile.networks.layers import HEAD

    loaded = model_folder.load_model_folder(start.folder)
    if loaded.card.sha256.get(model_folder.NETWORK) != start.digest:
        raise ModelError(
            start.folder, "expected a model folder that stays while it is read, got another", "try again"
        )
    given = {layer.name: layer.get_weights() for layer in loaded.model.layers if layer.weights}
    wanted = {layer.name: layer for layer in network.layers if layer.weights}
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())
        raise ModelError(start.folder, f"expected the layers of {network.name}, got others: {', '.join(odd)}")
    anew = ""
    for name, layer in wanted.items():
        shapes = [tuple(variable.shape) for variable in layer.weights]
        if shapes == [array.shape for array in given[name]]:
            layer.set_weights(given[name])
        elif name == HEAD:
            has, needs = given[name][0].shape[-1], shapes[0][-1]
            anew = f", but for the last layer, which begins anew: {needs} outputs, it has {has}"
        else:
            got = ", ".join("x".join(map(str, array.shape)) for array in given[name])
            expected = ", ".join("x".join(map(str, shape)) for shape in shapes)
            raise ModelError(start.folder, f"expected arrays of {expected} for the layer {name}, got {got}")
    progress.note(f"training begins with the weights of {start.name}{anew}")
    for difference in _other_meaning(start.card, config):
        progress.warn(f"[train] pretrained: {start.name} {difference}")


def _other_meaning(card: ModelCard, config: Config) -> Iterator[str]:
    """Describe differences of scale and class names between a model and the config."""
    if card.mpp != config.model.mpp:
        scales = (card.mpp, config.model.mpp)
        then, now = (f"{scale:g} µm per pixel" if scale else "no known scale" for scale in scales)
        yield f"was trained at {then}, [model] mpp says {now}"
    learnt, asked = ([one.name for one in classes] for classes in (card.classes, config.palette().classes))
    if learnt != asked and len(learnt) == len(asked):
        yield f"knows the classes {', '.join(learnt)}, [mask] class_names says {', '.join(asked)}"
