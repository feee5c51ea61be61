"""Ensembles: several trained networks as one network in one model folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.model_card import ModelCard, TrainingData
from glomtile.config.schema import network_name
from glomtile.errors import ModelError, UsageError
from glomtile.models.folder import (
    different_settings,
    load_model_folder,
    model_folder,
    parent_model,
    read_card,
    save_model_folder,
)
from glomtile.types import SILENT, Progress
from glomtile.validation import path_argument

if TYPE_CHECKING:
    import keras

_MEMBER = "member{number}_{layer}"
_FROM_FIRST = ("tta", "threshold", "smoothing_px", "min_expected_dice", "objects")
"""Settings of use in which members may differ."""

_MAX_LISTED = 3


def ensemble(models: Sequence[Path], out: Path, *, progress: Progress = SILENT) -> Path:
    """Make a model folder whose probabilities are the mean of several models'.

    Parameters
    ----------
    models : sequence of Path
        Two or more model folders of like networks: of a cross-validation's folds, or of several seeds.
    out : Path
        A folder that does not exist yet.
    progress : Progress
        Warned about settings that the first model decides for all.

    Returns
    -------
    Path
        The model folder. It can be used and exported as any, but training cannot start from it.

    Raises
    ------
    UsageError
        There are fewer than two models, two are the same network, or `out` exists.
    ModelError
        A folder is no model, or damaged, or an ensemble; or the networks, scales, classes or channels differ.
    StorageError
        `out` cannot be written.

    Notes
    -----
    See `mean_network`. It takes the time and the memory of all its members.
    """
    given = [models] if isinstance(models, str | Path) else list(models)
    if len(given) < 2:
        raise UsageError("MODEL", f"expected two models or more, got {len(given)}")
    named, out = [path_argument("models", model) for model in given], path_argument("out", out)
    if out.exists():
        raise UsageError("--out", f"expected a new name, got {out}, which exists", "remove it first")
    folders = [model_folder(model) for model in named]
    for folder in folders[1:]:
        _require_compatible(folders[0], folder)
    loaded = [load_model_folder(folder) for folder in folders]
    cards = [one.card for one in loaded]
    _require_different(folders, [one.model for one in loaded])
    for key in _FROM_FIRST:
        values = list(dict.fromkeys(str(getattr(card, key)) for card in cards))
        if len(values) > 1:
            progress.warn(f"the models differ in {key} ({'; '.join(values)}): that of {folders[0]} is taken")
    network = mean_network([one.model for one in loaded])
    save_model_folder(out, network, _card_of(folders, cards))
    progress.note(f"{out}: the mean of {len(folders)} networks, {network.count_params():,} parameters")
    return out


def mean_network(networks: Sequence[keras.Model]) -> keras.Model:
    """Join the layers of several networks in one functional network, with copies of their weights.

    Parameters
    ----------
    networks : sequence of keras.Model
        Two or more, of the same input and output shapes, as of `glomtile.networks.registry.build_model`.

    Returns
    -------
    keras.Model
        ``(N, H, W, C)`` to the mean of their probabilities, ``(N, H, W, K) float32``. Its layers are not
        nested, so that exporting and profiling treat it like any other network.

    Notes
    -----
    Errors of networks that were trained independently differ: the mean of their probabilities is better than
    they are on average (Lakshminarayanan et al. 2017, arXiv 1612.01474).
    """
    import keras

    first = networks[0]
    image = keras.Input(first.input_shape[1:], dtype=first.input.dtype, name=first.input.name)
    outputs = []
    for number, network in enumerate(networks, 1):

        def renamed(layer: Any, number: int = number) -> Any:
            config = layer.get_config() | {"name": _MEMBER.format(number=number, layer=layer.name)}
            return type(layer).from_config(config)

        member = keras.models.clone_model(network, image, renamed)
        member.set_weights(network.get_weights())
        outputs.append(member.output)
    probs = keras.layers.Average(dtype="float32", name="mean")(outputs)
    return keras.Model(image, probs, name=first.name)


def is_head(layer: str) -> bool:
    """Return True for the name of the head of a network, or of a member of an ensemble."""
    from glomtile.networks.layers import HEAD

    return re.fullmatch(_MEMBER.format(number=r"\d+", layer=HEAD) + f"|{HEAD}", layer) is not None


def _require_compatible(one: Path, other: Path) -> None:
    """Compare the cards of two networks before either is loaded."""
    first, card = read_card(one), read_card(other)
    for folder, read in ((one, first), (other, card)):
        if read.members:
            raise ModelError(
                folder, f"expected one network, got an ensemble of {len(read.members)}", "name its members"
            )
    wrong = [
        f"{key} {got}, not {wanted}"
        for key, wanted, got in different_settings(first.network, card.network)
        if key != "model" or network_name(wanted) != network_name(got)
    ]
    facts = [
        ("classes", _classes(first), _classes(card)),
        ("color_order", first.color_order, card.color_order),
    ]
    wrong += [f"{key} {got}, not {wanted}" for key, wanted, got in facts if wanted != got]
    if wrong:
        more = f" and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        raise ModelError(
            other / CARD, f"expected a network like that of {one}, got {'; '.join(wrong[:_MAX_LISTED])}{more}"
        )


def _require_different(folders: Sequence[Path], networks: Sequence[keras.Model]) -> None:
    """Raise if two have the same weights: files differ in their dates, and a bundle's weights are rounded."""
    import numpy as np

    weights = [[array.astype(np.float16) for array in network.get_weights()] for network in networks]
    for one, other in itertools.combinations(range(len(folders)), 2):
        if all(map(np.array_equal, weights[one], weights[other])):
            raise UsageError(
                "MODEL",
                f"expected different networks, got {folders[one]} and {folders[other]} of the same weights",
                "best/ and last/ of a run without validation images are one network",
            )


def _classes(card: ModelCard) -> str:
    return ", ".join(f"{entry.number} {entry.name} {entry.rgb}" for entry in card.classes)


def _card_of(folders: Sequence[Path], cards: Sequence[ModelCard]) -> ModelCard:
    """Make the card of an ensemble from what members share, and the first's or the widest of the rest.

    Reference statistics are those of the member with the most images. Licences are those of all the images
    that any weights come from.
    """
    ranges = [card.mpp_range for card in cards if card.mpp_range]
    statistics = [card.reference_statistics for card in cards if card.reference_statistics]
    data = [card.data for card in cards]
    lineage = [datum for card in cards for datum in _training_data(card)]
    return cards[0].model_copy(
        update={
            "mpp_range": (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
            "tile_px": max(card.tile_px for card in cards),
            "overlap_px": max(card.overlap_px for card in cards),
            "reference_statistics": max(statistics, key=lambda one: one.images, default=None),
            "data": TrainingData(
                name=_unique(one.name for one in data),
                licence=_unique(one.licence for one in lineage),
                source=_unique(one.source for one in data),
                images=max(one.images for one in data),
                valid_images=max(one.valid_images for one in data),
            ),
            "pretrained": None,
            "encoder_weights": None,
            "members": tuple(map(parent_model, folders, cards)),
            "epoch": min(card.epoch for card in cards),
            "scores": {},
        }
    )


def _training_data(card: ModelCard) -> Iterator[TrainingData]:
    """Yield the training data of a model and of its parents."""
    yield card.data
    parent = card.pretrained
    while parent is not None:
        yield parent.data
        parent = parent.pretrained


def _unique(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
