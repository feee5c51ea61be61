"""Which folders of a config hold what someone made by hand, and must be neither written into nor moved."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from glomtile.config.schema import Config

RUN_FOLDERS = ("model_dir", "eval_dir", "epoch_change_infer_dir", "epoch_change_tiled_infer_dir")
"""Keys of ``[train]`` whose folders an earlier run leaves as a whole, under another name."""


def written_over(config: Config, section: Literal["infer", "tiledinfer"]) -> str | None:
    """What lies in the folder that masks would be written to, ``None`` where that is a folder of its own.

    Parameters
    ----------
    config : Config
    section : {"infer", "tiledinfer"}
        Either of its folders may be missing.

    Returns
    -------
    str or None
        In words: images of this section, images or masks of a split, masks beside the images.
    """
    asked = config.section(section)
    images, written = (_resolved(config, getattr(asked, key)) for key in ("images_dir", "output_dir"))
    if written is None:
        return None
    given = {"the images": images, "the masks beside the images": images and images.parent / "masks"}
    for split in ("train", "valid", "test"):
        for key in ("images_dir", "masks_dir"):
            given[f"[{split}] {key}"] = _resolved(config, getattr(config.section(split), key))
    return next((what for what, folder in given.items() if folder == written), None)


def judged_on_training(config: Config) -> list[str]:
    """The splits, ``valid`` or ``test``, whose images are those trained on: their figures prove nothing."""
    learnt = _resolved(config, config.train.images_dir)
    judged = {"valid": config.valid.images_dir, "test": config.test.images_dir}
    return [split for split, images in judged.items() if learnt and _resolved(config, images) == learnt]


def run_folders(config: Config) -> list[Path]:
    """The folders that a training writes, each once."""
    return list(dict.fromkeys(config.resolve(getattr(config.train, key)) for key in RUN_FOLDERS))


def held_by_runs(config: Config) -> list[tuple[str, Path, Path]]:
    """Folders that a training would move aside with the config, its data or the model it begins with.

    Returns
    -------
    list of (str, Path, Path)
        Key of ``[train]``, its folder, and what that holds.
    """
    pairs = [(name, key) for name in ("train", "valid", "test") for key in ("images_dir", "masks_dir")]
    pairs += [("infer", "images_dir"), ("tiledinfer", "images_dir"), ("train", "pretrained")]
    given = [getattr(config.section(name), key) for name, key in pairs]
    kept = [config.base_dir, *(config.resolve(path) for path in given if path is not None)]
    held = []
    for key in RUN_FOLDERS:
        folder = config.resolve(getattr(config.train, key))
        held += [(key, folder, path) for path in kept if path.is_relative_to(folder)][:1]
    return held


def _resolved(config: Config, folder: Path | None) -> Path | None:
    return None if folder is None else config.resolve(folder).resolve()
