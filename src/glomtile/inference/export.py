"""Export of models to other runtimes."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from glomtile.config.model_card import ModelCard, RuntimeFile
from glomtile.errors import InputError, ModelError, UsageError
from glomtile.io import atomic
from glomtile.types import SILENT, Progress, UInt8

if TYPE_CHECKING:
    from glomtile.inference.exporting import Forward, Parity
    from glomtile.models.folder import LoadedModel

Format = Literal["onnx", "openvino", "saved-model", "bundle"]
Precision = Literal["float32", "float16", "int8"]

ONNX = "model.onnx"
BUNDLE_BYTES = 8_000_000
"""What a model that comes with the package may take, all files together."""

_PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "int8"),
    "saved-model": ("float32",),
    "bundle": ("float16", "int8"),
}
"""The first is the default."""

_LARGEST = {"float32": 1e-4, "float16": 0.02, "int8": math.inf}
_MEAN, _SLIGHT, _CHANGED = 0.02, 0.002, 0.01
"""int8 rounds activations too: single pixels move, but their mean and their classes may hardly. Where even
the mean difference is slight, a network is undecided, and which class is ahead says nothing."""

_MOST_TILES = 64


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes
    ----------
    path : Path
        The file or folder.
    precision : str
    parity : Parity
        Against the trained network, at three odd sizes; for int8 over the calibration images.
    bytes : int
        Of all that was written.
    """

    path: Path
    precision: str
    parity: Parity
    bytes: int


def export(
    model: Path,
    out: Path | None = None,
    *,
    fmt: str = "onnx",
    precision: str | None = None,
    calibration: Path | None = None,
    mpp: float | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a model folder's network in another format.

    Parameters
    ----------
    model : Path
        A model folder.
    out : Path, optional
        File (onnx) or folder (the others) that does not exist yet. Without it an ONNX file goes into the
        model folder and is what `segment` runs from then on.
    fmt : {"onnx", "openvino", "saved-model", "bundle"}
        A bundle is a model folder of its own with float16 kernels, runtime file included.
    precision : {"float32", "float16", "int8"}, optional
        float32 by default, float16 for a bundle.
    calibration : Path, optional
        Folder of images like those that will be segmented; int8 needs it, and only int8 takes it.
    mpp : float, optional
        Scale of the calibration images, in place of what the files say.
    progress : Progress

    Returns
    -------
    ExportResult

    Raises
    ------
    UsageError
        An unknown format or precision, int8 without images or images without int8, a target missing or
        already there.
    ModelError
        The folder is no model, cannot be exported, or what came out answers differently.
    MissingExtraError
        A package of the extra `export` is absent.
    StorageError
        Nothing can be written there.
    """
    precision = _checked(fmt, precision, calibration, mpp)
    target = _target(fmt, out)
    from glomtile.models.folder import load_model_folder, model_folder

    folder = model_folder(model)
    loaded = load_model_folder(folder)
    images = [] if calibration is None else _calibration_tiles(loaded.card, calibration, mpp)
    job = _Job(fmt, precision, images, progress)
    with tempfile.TemporaryDirectory(prefix="glomtile-") as name:
        scratch = Path(name)
        if fmt == "bundle":
            made = scratch / "bundle"
            parity = _bundle(job, loaded, made, scratch)
        else:
            made, exported = job.write(loaded, scratch)
            parity = job.parity(loaded, exported)
        if target is None:
            target = folder / ONNX
            _register(folder, made, loaded.card, job.told(parity))
        elif fmt == "onnx":
            with atomic.atomic_write(target) as partial:
                shutil.copyfile(made, partial)
        else:
            with atomic.replace_folder(target) as partial:
                shutil.copytree(made.parent if made.is_file() else made, partial, dirs_exist_ok=True)
    return ExportResult(target, precision, parity, _size(target))


def _checked(fmt: str, precision: str | None, calibration: Path | None, mpp: float | None) -> str:
    if fmt not in get_args(Format):
        raise UsageError("--format", f"expected one of {', '.join(get_args(Format))}, got {fmt!r}")
    allowed = _PRECISIONS[fmt]
    chosen = precision or allowed[0]
    if chosen not in allowed:
        raise UsageError("--precision", f"expected one of {', '.join(allowed)} for {fmt}, got {chosen!r}")
    if chosen == "int8" and calibration is None:
        raise UsageError(
            "--calibration",
            "expected a folder of images for int8, which takes the ranges of all sums from them, got none",
            "a dozen images of the kind that will be segmented are enough",
        )
    if chosen != "int8" and calibration is not None:
        raise UsageError(
            "--calibration", f"expected --precision int8 beside it, which alone takes ranges, got {chosen}"
        )
    if calibration is None and mpp is not None:
        raise UsageError("--mpp", f"expected calibration images, whose scale it is, got {mpp:g} without any")
    return chosen


def _target(fmt: str, out: Path | None) -> Path | None:
    if out is None:
        if fmt != "onnx":
            raise UsageError("--out", f"expected a place to write {fmt} to, got none")
        return None
    if out.exists():
        raise UsageError("--out", f"expected a name that is free, got {out}, which exists", "remove it first")
    return out


@dataclass(frozen=True)
class _Job:
    """In which format and precision, and the images that int8 takes its ranges from."""

    fmt: str
    precision: str
    images: list[UInt8]
    progress: Progress

    def write(self, loaded: LoadedModel, scratch: Path) -> tuple[Path, Forward]:
        """Write a network into a folder of our own; where it lies, and what came out as a callable."""
        from glomtile.inference import exporting

        self.progress.start(f"{self.fmt}, {self.precision}", None)
        if self.fmt == "saved-model":
            path = scratch / "saved"
            exporting.write_saved_model(loaded.model, path)
            return path, exporting.saved_model_forward(path)
        path, half = scratch / ONNX, self.precision == "float16"
        exporting.write_onnx(loaded.model, path, half_weights=half)
        if self.precision == "int8":
            path = scratch / "int8.onnx"
            exporting.write_int8(scratch / ONNX, path, self.images)
        if self.fmt == "openvino":
            path = exporting.write_openvino(path, scratch / "openvino", half_weights=half)
        return path, exporting.file_forward(path)

    def parity(self, loaded: LoadedModel, exported: Forward) -> Parity:
        """How far the answers are from the trained network's; a ModelError where that is too far."""
        from glomtile.inference import exporting

        card, calibrated = loaded.card, self.precision == "int8"
        noise = exporting.odd_sizes(card.stride_px, card.network.image_channels)
        batches = (image[None] for image in self.images) if calibrated else noise
        parity = exporting.compare(exporting.keras_forward(loaded.model), exported, batches)
        self.progress.note(f"against the trained network: {parity}")
        undecided = parity.mean <= _SLIGHT
        spoilt = calibrated and (parity.mean > _MEAN or (parity.changed > _CHANGED and not undecided))
        if spoilt or not parity.largest <= _LARGEST[self.precision]:
            raise ModelError(
                self.fmt,
                f"expected the answers of the trained network, got others: {parity}",
                "nothing was written" + ("; more calibration images may help" if calibrated else ""),
            )
        return parity

    def told(self, parity: Parity) -> RuntimeFile:
        """What the card will say of the file."""
        return RuntimeFile(
            name=ONNX,
            precision=self.precision,  # type: ignore[arg-type]
            max_difference=min(1.0, parity.largest),
            calibration_images=len(self.images),
        )


def _register(folder: Path, made: Path, card: ModelCard, told: RuntimeFile) -> None:
    """Put the file beside the network and name it in the card; a kill leaves a whole model without it."""
    from glomtile.models.folder import write_card

    digests = {name: digest for name, digest in card.sha256.items() if name != ONNX}
    write_card(folder, card.model_copy(update={"runtime": None, "sha256": digests}))
    with atomic.atomic_write(folder / ONNX) as partial:
        shutil.copyfile(made, partial)
    digests[ONNX] = atomic.sha256(folder / ONNX)
    write_card(folder, card.model_copy(update={"runtime": told, "sha256": digests}))


def _bundle(job: _Job, loaded: LoadedModel, small: Path, scratch: Path) -> Parity:
    """Make a model folder of float16 kernels with its runtime file, no larger than a bundled one may be."""
    from glomtile.models.folder import load_model_folder, save_model_folder

    written = save_model_folder(small, loaded.model, loaded.card, half_weights=True)
    # The rounded network is exported, so that Keras and the runtime agree on the bundle; what is told is how
    # far the runtime is from the network that was trained and measured.
    made, exported = job.write(load_model_folder(small), scratch)
    parity = job.parity(loaded, exported)
    card = written.model_copy(update={"versions": loaded.card.versions})
    _register(small, made, card, job.told(parity))
    size = _size(small)
    if size > BUNDLE_BYTES:
        raise ModelError(
            "bundle", f"expected at most {BUNDLE_BYTES:,} bytes for a bundled model, got {size:,}",
            "train fewer filters, or give --precision int8 with --calibration",
        )  # fmt: skip
    return parity


def _calibration_tiles(card: ModelCard, folder: Path, mpp: float | None) -> list[UInt8]:
    """Tiles of the images at the model's scale, spread evenly over all of them, 64 at most."""
    from glomtile.io.images import image_mpp, list_images, read_image
    from glomtile.io.resolution import resize_to_mpp

    height, width = (max(1, side // card.stride_px) * card.stride_px for side in card.tile_px)
    tiles = []
    for path in list_images(folder):
        image = read_image(path)
        if card.mpp is not None:
            scale = mpp or image_mpp(path)
            if scale is None:
                raise InputError(path, "expected micrometres per pixel in the file, found none", "give --mpp")
            image = resize_to_mpp(image, scale, card.mpp)
        down, across = (max(0, least - n) for n, least in zip(image.shape, (height, width), strict=False))
        image = np.pad(image, ((0, down), (0, across), (0, 0)), mode="symmetric")
        if card.color_order == "BGR":
            image = image[..., ::-1]
        tiles += [
            image[top : top + height, left : left + width]
            for top in range(0, image.shape[0] - height + 1, height)
            for left in range(0, image.shape[1] - width + 1, width)
        ]
    if not tiles:
        raise UsageError("--calibration", f"expected images in {folder}, found none")
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), _MOST_TILES)).round().astype(int))
    return [tiles[i] for i in chosen]


def _size(path: Path) -> int:
    parts = [path] if path.is_file() else path.rglob("*")
    return sum(part.stat().st_size for part in parts if part.is_file())
