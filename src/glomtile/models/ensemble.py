"""Ensembles of trained models in one model folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.model_card import ModelCard, TrainingData
from glomtile.errors import ModelError, UsageError
from glomtile.types import SILENT, Progress
from glomtile.validation import path_argument

if TYPE_CHECKING:
    import keras

_OF_THE_FIRST = ("tta", "threshold", "smoothing_px", "min_expected_dice", "objects")
"""Ways of use that members may differ in."""

_SHOWN = 3


def ensemble(models: Sequence[Path], out: Path, *, progress: Progress = SILENT) -> Path:
    """Make a model folder of several, whose probabilities are the mean of theirs.

    Parameters
    ----------
    models : sequence of Path
        Two or more model folders of like networks: of a cross-validation's folds, or of several seeds.
    out : Path
        A folder that does not exist yet.
    progress : Progress
        Is told of what the first model decides for all.

    Returns
    -------
    Path
        The model folder. It can be used and exported as any, but not be trained on from.

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
    See `glomtile.networks.ensemble.mean_network`. It takes the time and the memory of all its members.
    """
    given = [models] if isinstance(models, str | Path) else list(models)
    if len(given) < 2:
        raise UsageError("MODEL", f"expected two models or more, got {len(given)}")
    named, out = [path_argument("models", model) for model in given], path_argument("out", out)
    if out.exists():
        raise UsageError("--out", f"expected a name that is free, got {out}, which exists", "remove it first")
    from glomtile.models import folder as model_folder
    from glomtile.networks.ensemble import mean_network

    folders = [model_folder.model_folder(model) for model in named]
    for folder in folders[1:]:
        _require_alike(folders[0], folder)
    loaded = [model_folder.load_model_folder(folder) for folder in folders]
    cards = [one.card for one in loaded]
    _require_different(folders, [one.model for one in loaded])
    for key in _OF_THE_FIRST:
        values = list(dict.fromkeys(str(getattr(card, key)) for card in cards))
        if len(values) > 1:
            progress.warn(f"the models differ in {key} ({'; '.join(values)}): that of {folders[0]} is taken")
    network = mean_network([one.model for one in loaded])
    model_folder.save_model_folder(out, network, _card_of(folders, cards))
    progress.note(f"{out}: the mean of {len(folders)} networks, {network.count_params():,} parameters")
    return out


def _require_alike(one: Path, other: Path) -> None:
    """See by their cards that two networks take and answer the same, before either is loaded."""
    from glomtile.models.folder import read_card, read_whole, unlike

    first, card = (read_whole(folder, read_card) for folder in (one, other))
    for folder, told in ((one, first), (other, card)):
        if told.members:
            raise ModelError(
                folder, f"expected one network, got an ensemble of {len(told.members)}", "name its members"
            )
    wrong = [
        f"{key} {got}, not {wanted}"
        for key, wanted, got in unlike(first.network, card.network)
        if key != "model"
    ]
    facts = [("classes", _told(first), _told(card)), ("color_order", first.color_order, card.color_order)]
    wrong += [f"{key} {got}, not {wanted}" for key, wanted, got in facts if wanted != got]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ModelError(
            other / CARD, f"expected a network like that of {one}, got {'; '.join(wrong[:_SHOWN])}{more}"
        )


def _require_different(folders: Sequence[Path], networks: Sequence[keras.Model]) -> None:
    """Raise where two are one network: files differ in their dates, and a bundle's weights are rounded."""
    import numpy as np

    weights = [[array.astype(np.float16) for array in network.get_weights()] for network in networks]
    for one, other in itertools.combinations(range(len(folders)), 2):
        if all(map(np.array_equal, weights[one], weights[other])):
            raise UsageError(
                "MODEL",
                f"expected different networks, got {folders[one]} and {folders[other]} of the same weights",
                "best/ and last/ of a run without validation images are one network",
            )


def _told(card: ModelCard) -> str:
    return ", ".join(f"{entry.number} {entry.name} {entry.rgb}" for entry in card.classes)


def _card_of(folders: Sequence[Path], cards: Sequence[ModelCard]) -> ModelCard:
    """What an ensemble says of itself: what members share, and of the rest the first's or the widest.

    How tissue looks is told by the member that saw most images. Licences are those of all the images that
    any weights come from.
    """
    from glomtile.models.folder import ancestor

    ranges = [card.mpp_range for card in cards if card.mpp_range]
    statistics = [card.reference_statistics for card in cards if card.reference_statistics]
    data = [card.data for card in cards]
    lines = [datum for card in cards for datum in _line_of(card)]
    return cards[0].model_copy(
        update={
            "mpp_range": (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
            "tile_px": max(card.tile_px for card in cards),
            "overlap_px": max(card.overlap_px for card in cards),
            "reference_statistics": max(statistics, key=lambda one: one.images, default=None),
            "data": TrainingData(
                name=_each_once(one.name for one in data),
                licence=_each_once(one.licence for one in lines),
                source=_each_once(one.source for one in data),
                images=max(one.images for one in data),
                valid_images=max(one.valid_images for one in data),
            ),
            "pretrained": None,
            "members": tuple(map(ancestor, folders, cards)),
            "epoch": min(card.epoch for card in cards),
            "scores": {},
        }
    )


def _line_of(card: ModelCard) -> Iterator[TrainingData]:
    """What a model learned from, then what the one it began with did, and so on."""
    yield card.data
    older = card.pretrained
    while older is not None:
        yield older.data
        older = older.pretrained


def _each_once(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
