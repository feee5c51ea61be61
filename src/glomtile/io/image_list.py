"""List of scored images with their masks, kept as ``images.json`` beside the scores."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from glomtile.errors import GlomtileError, InputError
from glomtile.io.atomic import write_json
from glomtile.io.images import list_images
from glomtile.io.masks import Datatype, read_mask
from glomtile.palette import Palette, PaletteClass
from glomtile.types import UInt8

NAME = "images.json"
_PREVIEW = re.compile(r"Epoch_(?P<epoch>\d+)_(?P<stem>.+)\.png")


@dataclass(frozen=True)
class ImageRecord:
    """Files of one scored image; `image` is None where only masks were scored."""

    stem: str
    image: Path | None
    truth: Path
    prediction: Path


@dataclass(frozen=True)
class PreviewSeries:
    """Predictions of one image after some epochs: epoch number and mask."""

    stem: str
    image: Path
    frames: tuple[tuple[int, Path], ...]


@dataclass(frozen=True)
class ImageList:
    """Scored images and how their masks are read.

    Attributes
    ----------
    palette : Palette
        Of both masks.
    images : tuple of ImageRecord
    previews : tuple of PreviewSeries
    datatype, tolerance
        Of the true masks, see `glomtile.io.masks.read_mask`; predictions always hold colours.
    """

    palette: Palette
    images: tuple[ImageRecord, ...]
    previews: tuple[PreviewSeries, ...] = ()
    datatype: Datatype = "categorized"
    tolerance: int = 0

    def labels(self, record: ImageRecord) -> tuple[UInt8, UInt8]:
        """Read truth and prediction of an image, ``(H, W) uint8`` each.

        Raises
        ------
        InputError
            One cannot be read, or they differ in size.
        """
        truth = read_mask(record.truth, self.palette, datatype=self.datatype, tolerance=self.tolerance)
        prediction = read_mask(record.prediction, self.palette, tolerance=self.tolerance)
        if truth.shape != prediction.shape:
            raise InputError(record.prediction, f"expected the size {truth.shape}, got {prediction.shape}")
        return truth, prediction


def write_image_list(folder: Path, listed: ImageList) -> Path:
    """Write ``images.json`` with paths relative to `folder`, so that both may be moved together.

    Raises
    ------
    StorageError
        It cannot be written.
    """

    def relative(target: Path) -> str:
        try:
            return Path(os.path.relpath(target.absolute(), folder.absolute())).as_posix()
        except ValueError:  # another drive
            return target.absolute().as_posix()

    content = {
        "classes": [{"number": c.number, "name": c.name, "rgb": list(c.rgb)} for c in listed.palette.classes],
        "truth": {"datatype": listed.datatype, "tolerance": listed.tolerance},
        "images": [
            {
                "stem": one.stem,
                "image": one.image and relative(one.image),
                "truth": relative(one.truth),
                "prediction": relative(one.prediction),
            }
            for one in listed.images
        ],
        "previews": [
            {
                "stem": series.stem,
                "image": relative(series.image),
                "epochs": [{"epoch": epoch, "mask": relative(mask)} for epoch, mask in series.frames],
            }
            for series in listed.previews
        ],
    }
    write_json(folder / NAME, content)
    return folder / NAME


def read_image_list(folder: Path) -> ImageList | None:
    """Read ``images.json`` of a folder; return None where there is none.

    Raises
    ------
    InputError
        The file cannot be read, or has other content. The files it names need not exist.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        classes = []
        for entry in content["classes"]:
            red, green, blue = (int(part) for part in entry["rgb"])
            classes.append(PaletteClass(int(entry["number"]), str(entry["name"]), (red, green, blue)))
        images = []
        for one in content["images"]:
            image = None if one["image"] is None else folder / one["image"]
            record = ImageRecord(str(one["stem"]), image, folder / one["truth"], folder / one["prediction"])
            images.append(record)
        previews = []
        for one in content["previews"]:
            frames = tuple((int(frame["epoch"]), folder / frame["mask"]) for frame in one["epochs"])
            previews.append(PreviewSeries(str(one["stem"]), folder / one["image"], frames))
        datatype, tolerance = content["truth"]["datatype"], int(content["truth"]["tolerance"])
        if datatype not in get_args(Datatype):
            raise ValueError(f"datatype {datatype!r}")  # noqa: TRY301  (as any other damage)
        return ImageList(Palette(tuple(classes)), tuple(images), tuple(previews), datatype, tolerance)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(path, f"expected a readable file, got: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, GlomtileError) as error:
        raise InputError(path, f"expected a list of images as glomtile writes it, got: {error}") from error


def find_previews(folder: Path, images: Path, most_images: int = 3) -> list[PreviewSeries]:
    """Find the previews that training wrote of its first images: first, middle and last epoch.

    Parameters
    ----------
    folder : Path
        Holds ``Epoch_<n>_<stem>.png``; other files are ignored.
    images : Path
        Folder of the images; previews of others are ignored.
    most_images : int
        In natural order of their names.

    Raises
    ------
    InputError
        A folder cannot be read, or `images` holds no image.
    """
    masks: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        named = _PREVIEW.fullmatch(path.name)
        if named is not None:
            masks.setdefault(named["stem"], {})[int(named["epoch"])] = path
    found: list[PreviewSeries] = []
    for image in list_images(images):
        epochs = sorted(masks.get(image.stem, {}))
        if epochs and len(found) < most_images:
            shown = dict.fromkeys((epochs[0], epochs[(len(epochs) - 1) // 2], epochs[-1]))
            found.append(PreviewSeries(image.stem, image, tuple((n, masks[image.stem][n]) for n in shown)))
    return found
