"""The settings of augmentation: [augmentor], the sections it opens, and the reference's [generator]."""

from __future__ import annotations

from pathlib import Path

from glomtile.config.schema_fields import (
    About,
    PathSetting,
    Positive,
    QualityRange,
    ScaleRange,
    Section,
    Share,
    setting,
)

_CENTERS = About(expects="a list of pairs (x, y), each from 0 to 1")
_DUMP = About(inert="glomtile stats --augmented shows what the network sees")


class AugmentorSettings(Section):
    """[augmentor]: which changes a training sample may go through."""

    enabled: bool | None = setting(
        None, 'augment at all; "none" = as [model] generator and [generator] augmentation say', ours=True
    )
    hflip: bool = setting(True, "mirror left and right")
    vflip: bool = setting(True, "mirror top and bottom")
    rotation: bool = setting(True, "turn by one of angles")
    angles: tuple[float, ...] = setting((90, 180, 270), "angles of rotation", unit="deg")
    free_rotation: bool = setting(False, "turn by any angle", ours=True)
    shrinks: tuple[Positive, ...] = setting((0.8,), "factors to shrink by, one is drawn; empty = off")
    scales: ScaleRange | None = setting(
        None,
        "shrink or enlarge by any factor between two",
        about=About(ours=True, expects="a pair of numbers > 0, the lower first, or None"),
    )
    shears: tuple[float, ...] = setting((), "factors to shear by, one is drawn; empty = off")
    deformation: bool = setting(False, "elastic deformation, see [deformation]")
    distortion: bool = setting(False, "random distortion, see [distortion]")
    barrdistortion: bool = setting(False, "barrel distortion, see [barrdistortion]")
    pincdistortion: bool = setting(False, "pincushion distortion, see [pincdistortion]")
    sharpening: bool = setting(False, "sharpen the image, see [sharpening]")
    brightening: bool = setting(False, "brighten the image, see [brightening]")
    tears: float = setting(
        0.0, "share of samples that lose a part of their tissue, up to glass", ours=True, ge=0, le=1
    )
    stain: float = setting(0.0, "strength of stain variation; 0 = off", ours=True, ge=0, le=1)
    other_dyes: float = setting(
        0.0, "share of samples stained with dyes of any colour instead", ours=True, ge=0, le=1
    )
    blur: float = setting(0.0, "strongest blur's sigma; 0 = off", unit="px", ours=True, ge=0, le=20)
    jpeg: QualityRange | None = setting(
        None,
        "JPEG artefacts of a quality between two",
        about=About(ours=True, expects="a pair of whole numbers from 1 to 100, the lower first, or None"),
    )
    noise: float = setting(0.0, "sigma of the noise in grey values; 0 = off", ours=True, ge=0, le=128)


class DeformationSettings(Section):
    """[deformation]: elastic."""

    alpha: float = setting(1300, "strength", ge=0)
    sigmoids: tuple[Positive, ...] = setting((8,), "smoothness, one is drawn", unit="px")
    sigmoid: float = setting(8, "smoothness where sigmoids is empty", unit="px", gt=0)


class DistortionSettings(Section):
    """[distortion]: random."""

    distortions: tuple[Share, ...] = setting((0.02,), "strengths as shares of the image's size, one is drawn")
    gaussian_filter_sigma: float = setting(0.5, "sigma along the fine axis of the field", unit="px", ge=0)
    gaussian_filter_rsigma: float = setting(40, "sigma of the field", unit="px", gt=0)


class BarrDistortionSettings(Section):
    """[barrdistortion]: barrel."""

    radius: float = setting(0.5, "radius as a share of the image", ge=0, le=1)
    amount: float = setting(0.5, "strength", gt=0)
    centers: tuple[tuple[Share, Share], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", about=_CENTERS
    )


class PincDistortionSettings(Section):
    """[pincdistortion]: pincushion."""

    radius: float = setting(0.5, "radius as a share of the image", ge=0, le=1)
    amount: float = setting(-0.5, "strength", lt=0)
    centers: tuple[tuple[Share, Share], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", about=_CENTERS
    )


class BrighteningSettings(Section):
    """[brightening]."""

    alpha: float = setting(1.2, "gain", ge=0)
    beta: float = setting(10, "offset in grey values", ge=-255, le=255)


class SharpeningSettings(Section):
    """[sharpening]."""

    k: float = setting(1.0, "strength", ge=0)


class GeneratorSettings(Section):
    """[generator]: the reference's online augmentation."""

    augmentation: bool = setting(True, "augment, where [model] generator is on")
    debug: bool = setting(True, "keep what was generated", about=_DUMP)
    generated_images_dir: PathSetting = setting(Path("generated_images_dir"), "folder for it", about=_DUMP)
    generated_masks_dir: PathSetting = setting(Path("generated_masks_dir"), "folder for it", about=_DUMP)
    verbose: bool = setting(False, "talk", about=_DUMP)
