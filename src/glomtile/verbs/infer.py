"""Masks for folders of images, whole or window by window: what of an image's trouble stays its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glomtile.config.folders import written_over
from glomtile.config.schema import Config
from glomtile.core.palette import Palette
from glomtile.engine import modelfolder
from glomtile.engine.asking import Asking, Tta
from glomtile.engine.pictures import segment_image, segment_whole
from glomtile.engine.predictor import KerasPredictor
from glomtile.errors import ConfigError, InputError, ModelError
from glomtile.files.images import image_mpp, list_images, read_image
from glomtile.files.masks import write_mask
from glomtile.files.pairs import prepared_from
from glomtile.types import SILENT, Progress, UInt8

Label = Callable[[UInt8, float | None], UInt8]
"""A picture and its scale, where known, to class numbers of the same size."""


@dataclass(frozen=True)
class InferResult:
    """What became of each image.

    Attributes
    ----------
    done : tuple of Path
        The masks written, in the order of the images.
    failed : tuple of (Path, str)
        Images that gave no mask, each with the reason.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


def infer(config: Config, progress: Progress = SILENT) -> InferResult:
    """Label the images of ``[infer] images_dir``, each shrunk to the network's input and enlarged back.

    Parameters
    ----------
    config : Config
    progress : Progress

    Returns
    -------
    InferResult

    Raises
    ------
    ConfigError
        A folder is not given, or images and masks would lie in one folder.
    InputError
        The folder of images cannot be read or holds none.
    ModelError
        The model folder is damaged, or its network has other classes than the config.
    StorageError
        A mask cannot be written; those before it are kept.

    Notes
    -----
    Reference §6.5: there the output folder is deleted first. Here a mask replaces the file of its own name,
    whole or not at all, and nothing else in the folder is touched.
    """
    folders = _folders(config, "infer")
    palette = config.palette()
    predictor = _predictor(config, palette, progress)
    input_px = config.model.image_height, config.model.image_width
    return _label_folder(
        folders, lambda image, _: segment_whole(image, predictor, input_px), config, palette, progress
    )


def tiled_infer(config: Config, progress: Progress = SILENT) -> InferResult:
    """Label the images of ``[tiledinfer] images_dir`` window by window at the network's scale.

    The scale of an image is the one in its file, else ``[dataset] image_mpp``; where it and the model's are
    known, the network sees the image resized to its own. Masks have their image's size.

    Parameters
    ----------
    config : Config
    progress : Progress

    Returns
    -------
    InferResult

    Raises
    ------
    ConfigError, InputError, ModelError, StorageError
        See `infer`.
    UsageError
        The windows that ``[tiledinfer]`` describes cannot be had, see `glomtile.engine.pictures.tile_plan`.

    Notes
    -----
    Reference §6.2 and §6.6: there tiles of changing scale are predicted one by one and pasted. Reference
    §6.11: there ``color_order = "BGR"`` is forgotten; here the predictor turns every window.
    """
    folders = _folders(config, "tiledinfer")
    palette = config.palette()
    predictor = _predictor(config, palette, progress, config.tiledinfer.tta)

    without_scale = 0

    def label(image: UInt8, mpp: float | None) -> UInt8:
        nonlocal without_scale
        without_scale += mpp is None
        return segment_image(image, predictor, config.tiledinfer, mpp).labels

    result = _label_folder(folders, label, config, palette, progress)
    if without_scale and predictor.mpp is not None:
        progress.warn(
            f"{folders[0]}: images without a scale: {without_scale}; the network was trained at "
            f"{predictor.mpp:g} µm per pixel and saw them as they are ([dataset] image_mpp names their scale)"
        )
    return result


def _folders(config: Config, section: Literal["infer", "tiledinfer"]) -> tuple[Path, Path]:
    images, masks = config.folder(section, "images_dir"), config.folder(section, "output_dir")
    what = written_over(config, section)
    learnt = {
        "train": config.train.images_dir, "valid": config.valid.images_dir, "test": config.test.images_dir,
    }  # fmt: skip
    for split, folder in learnt.items():
        originals = () if folder is None else prepared_from(config.resolve(folder))
        if masks.resolve() in [original.resolve() for original in originals]:
            what = f"what [{split}] was prepared from"
    if what is not None:
        raise ConfigError(
            f"[{section}] output_dir",
            f"expected another folder than that of {what}, got {masks}",
            hint="a mask would replace the file of the same name there",
        )
    return images, masks


def _predictor(config: Config, palette: Palette, progress: Progress, tta: Tta = "none") -> KerasPredictor:
    folder = config.resolve(config.train.model_dir) / config.train.use
    loaded = modelfolder.load_model_folder(folder)
    order = config.image.color_order
    if order != loaded.card.color_order:
        progress.warn(
            f"{folder}: the network was trained with color_order {loaded.card.color_order}, "
            f"and is now shown {order}, as [image] color_order says"
        )
    asking = Asking.of_config(config, tta)
    predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, asking)
    if predictor.num_classes != palette.num_classes:
        raise ModelError(
            folder,
            f"expected a network of the {palette.num_classes} classes of rgb_map, "
            f"got one of {predictor.num_classes}",
        )
    return predictor


def _label_folder(
    folders: tuple[Path, Path], label: Label, config: Config, palette: Palette, progress: Progress
) -> InferResult:
    images, masks = list_images(folders[0]), folders[1]
    done: list[Path] = []
    failed: list[tuple[Path, str]] = []
    made_from: dict[Path, Path] = {}
    progress.start("images", len(images))
    for path in images:
        target = masks / f"{path.stem}.png"
        first = made_from.setdefault(target, path)
        reason = f"expected a name of its own, got the mask's name of {first.name}" if first != path else None
        reason = reason or _label_file(path, target, label, config, palette, progress)
        if reason is None:
            done.append(target)
        else:
            failed.append((path, reason))
        progress.advance(1, image=path.name)
    return InferResult(tuple(done), tuple(failed))


def _label_file(
    path: Path, target: Path, label: Label, config: Config, palette: Palette, progress: Progress
) -> str | None:
    """Write one mask; the reason where the image gives none."""
    try:
        known_mpp = image_mpp(path, progress)
        mpp = known_mpp if known_mpp is not None else config.dataset.image_mpp
        write_mask(target, label(read_image(path), mpp), palette, mpp)
    except InputError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")
    except MemoryError:
        return "expected a picture that fits the memory, got MemoryError"
    return None
