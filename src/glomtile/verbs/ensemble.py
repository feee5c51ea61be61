"""One model folder that answers as several do on average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glomtile.config.card import FILE_NAME as CARD
from glomtile.config.card import ModelCard, TrainingData
from glomtile.errors import ModelError, UsageError
from glomtile.types import SILENT, Progress

_OF_THE_FIRST = ("tta", "threshold", "smoothing_px", "least_expected_dice", "objects")
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
        There are fewer than two models, one is named twice, or `out` exists.
    ModelError
        A folder is no model, or damaged, or an ensemble; or the networks, scales, classes or channels differ.
    StorageError
        `out` cannot be written.

    Notes
    -----
    See `glomtile.nets.ensemble.mean_network`. It takes the time and the memory of all its members.
    """
    models = [Path(model) for model in models]
    if len(models) < 2:
        raise UsageError("MODEL", f"expected two models or more, got {len(models)}")
    if out.exists():
        raise UsageError("--out", f"expected a name that is free, got {out}, which exists", "remove it first")
    from glomtile.engine import modelfolder
    from glomtile.nets.ensemble import mean_network

    folders = [modelfolder.model_folder(model) for model in models]
    loaded = [modelfolder.load_model_folder(folder) for folder in folders]
    cards = [one.card for one in loaded]
    _require_alike(folders, cards)
    for key in _OF_THE_FIRST:
        if len({repr(getattr(card, key)) for card in cards}) > 1:
            progress.warn(f"the models differ in {key}: that of {folders[0]} is taken")
    network = mean_network([one.model for one in loaded])
    modelfolder.save_model_folder(out, network, _card_of(folders, cards))
    progress.note(f"{out}: the mean of {len(models)} networks, {network.count_params():,} parameters")
    return out


def _require_alike(folders: Sequence[Path], cards: Sequence[ModelCard]) -> None:
    from glomtile.engine.modelfolder import NETWORK, SHAPING

    first, seen = cards[0], dict[str, Path]()
    for folder, card in zip(folders, cards, strict=True):
        if card.members:
            raise ModelError(
                folder, f"expected one network, got an ensemble of {len(card.members)}", "name its members"
            )
        digest = card.sha256[NETWORK]
        if digest in seen:
            raise UsageError(
                "MODEL", f"expected different models, got {seen[digest]} twice: {folder} is the same"
            )
        seen[digest] = folder
        facts: dict[str, tuple[Any, Any]] = {
            key: (getattr(first.network, key), getattr(card.network, key))
            for key in SHAPING
            if key != "model"
        }
        facts["classes"] = (_told(first), _told(card))
        facts["color_order"] = (first.color_order, card.color_order)
        wrong = [f"{key} {got}, not {wanted}" for key, (wanted, got) in facts.items() if wanted != got]
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise ModelError(
                folder / CARD,
                f"expected a network like that of {folders[0]}, got {'; '.join(wrong[:_SHOWN])}{more}",
            )


def _told(card: ModelCard) -> str:
    return ", ".join(f"{entry.number} {entry.name}" for entry in card.classes)


def _card_of(folders: Sequence[Path], cards: Sequence[ModelCard]) -> ModelCard:
    """What an ensemble says of itself: what members share, and of the rest the first's or the widest."""
    from glomtile.engine.modelfolder import ancestor

    ranges = [card.mpp_range for card in cards if card.mpp_range]
    best_read = max(cards, key=lambda card: card.familiar.images if card.familiar else 0)
    data = [card.data for card in cards]
    return cards[0].model_copy(
        update={
            "mpp_range": (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
            "tile_px": max(card.tile_px for card in cards),
            "overlap_px": max(card.overlap_px for card in cards),
            "familiar": best_read.familiar,
            "data": TrainingData(
                name=_each_once(one.name for one in data),
                licence=_each_once(one.licence for one in data),
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


def _each_once(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
