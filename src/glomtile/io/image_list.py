"""List of segmented images written to images.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glomtile.errors import GlomtileError, InputError
from glomtile.io.atomic import write_json
from glomtile.io.images import list_images
from glomtile.io.masks import read_mask
from glomtile.palette import Palette, PaletteClass
from glomtile.types import UInt8

NAME = "images.json"

_PREVIEW = re.compile(r"Epoch_(?P<epoch>\d+)_(?P<stem>.+)\.png")

Datatype = Literal["categorized", "indexed"]


@dataclass(frozen=True)
class ImageRecord:
    """The files of one scored image; `image` is None where only masks were scored."""

    stem: str
    image: Path | None
    truth: Path
    prediction: Path


@dataclass(frozen=True)
class PreviewSeries:
    """What the network said of one image after some epochs: epoch number and mask."""

    stem: str
    image: Path
    frames: tuple[tuple[int, Path], ...]


@dataclass(frozen=True)
class PictureList:
    """All that is needed to show what was scored.

    Attributes
    ----------
    palette : Palette
        Of both masks.
    trios : tuple of Trio
    films : tuple of Film
    datatype, tolerance
        How masks are read, see `glomtile.io.masks.read_mask`; predictions hold colours whatever the truth.
    """

    palette: Palette
    trios: tuple[ImageRecord, ...]
    films: tuple[PreviewSeries, ...] = ()
    datatype: Datatype = "categorized"
    tolerance: int = 0

    def labels(self, trio: ImageRecord) -> tuple[UInt8, UInt8]:
        """Truth and prediction of an image, ``(H, W) uint8`` each.

        Raises
        ------
        InputError
            One cannot be read, or they differ in size.
        """
        truth = read_mask(trio.truth, self.palette, datatype=self.datatype, tolerance=self.tolerance)
        prediction = read_mask(trio.prediction, self.palette, tolerance=self.tolerance)
        if truth.shape != prediction.shape:
            raise InputError(trio.prediction, f"expected the size {truth.shape}, got {prediction.shape}")
        return truth, prediction


def write_picture_list(folder: Path, pictures: PictureList) -> Path:
    """Write ``images.json`` into a folder of figures.

    Paths in it are relative to the folder, so that both may be moved together.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    path = folder / NAME

    def told(target: Path | None) -> str | None:
        return None if target is None else _relative(target, folder)

    write_json(
        path,
        {
            "classes": [
                {"number": c.number, "name": c.name, "rgb": list(c.rgb)} for c in pictures.palette.classes
            ],
            "truth": {"datatype": pictures.datatype, "tolerance": pictures.tolerance},
            "images": [
                {
                    "stem": trio.stem,
                    "image": told(trio.image),
                    "truth": told(trio.truth),
                    "prediction": told(trio.prediction),
                }
                for trio in pictures.trios
            ],
            "films": [
                {
                    "stem": film.stem,
                    "image": told(film.image),
                    "epochs": [{"epoch": epoch, "mask": told(mask)} for epoch, mask in film.frames],
                }
                for film in pictures.films
            ],
        },
    )
    return path


def read_picture_list(folder: Path) -> PictureList | None:
    """What `write_picture_list` wrote into a folder; ``None`` where it wrote nothing.

    Raises
    ------
    InputError
        The file cannot be read, or is not as we write it. Whether the files in it exist is not asked.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        return _parsed(content, folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(path, f"expected a file that can be read, got: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, GlomtileError) as error:
        raise InputError(path, f"expected a list of pictures as glomtile writes it, got: {error}") from error


def _parsed(content: Mapping[str, Any], folder: Path) -> PictureList:
    palette = Palette(
        tuple(
            PaletteClass(
                int(c["number"]), str(c["name"]), (int(c["rgb"][0]), int(c["rgb"][1]), int(c["rgb"][2]))
            )
            for c in content["classes"]
        )
    )
    datatype = content["truth"]["datatype"]
    if datatype not in ("categorized", "indexed"):
        raise ValueError(f"datatype {datatype!r}")
    return PictureList(
        palette,
        tuple(
            ImageRecord(
                str(one["stem"]),
                None if one["image"] is None else folder / one["image"],
                folder / one["truth"],
                folder / one["prediction"],
            )
            for one in content["images"]
        ),
        tuple(
            PreviewSeries(
                str(one["stem"]),
                folder / one["image"],
                tuple((int(frame["epoch"]), folder / frame["mask"]) for frame in one["epochs"]),
            )
            for one in content["films"]
        ),
        datatype,
        int(content["truth"]["tolerance"]),
    )


def _relative(target: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(target.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive
        return target.absolute().as_posix()


def preview_films(folder: Path, images: Path, most_images: int = 3) -> list[PreviewSeries]:
    """The previews of the first images of a training: of the first, the middle and the last epoch.

    Parameters
    ----------
    folder : Path
        Holds ``Epoch_<n>_<stem>.png``; anything else in it is passed over.
    images : Path
        Folder of the pictures they are of; previews of others are passed over.
    most_images : int
        In natural order of their names.

    Raises
    ------
    InputError
        A folder cannot be read, or `images` holds no picture.
    """
    masks: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        named = _PREVIEW.fullmatch(path.name)
        if named is not None:
            masks.setdefault(named["stem"], {})[int(named["epoch"])] = path
    films: list[PreviewSeries] = []
    for image in list_images(images):
        epochs = sorted(masks.get(image.stem, {}))
        if epochs and len(films) < most_images:
            shown = dict.fromkeys((epochs[0], epochs[(len(epochs) - 1) // 2], epochs[-1]))
            films.append(PreviewSeries(image.stem, image, tuple((n, masks[image.stem][n]) for n in shown)))
    return films
