"""Augmentation of images together with their masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from glomtile.config.schema import Config
from glomtile.errors import ConfigError, InputError
from glomtile.training.geometric import Lens, Warp, affine, enlarge, resample, smooth_field
from glomtile.training.stain import other_dyes, vary_stain
from glomtile.types import IGNORE, Float32, UInt8

_LOST = (0.1, 0.5)
"""Least and greatest share of the sample that is torn away."""

_GRAIN_PX = (4.0, 24.0)
"""How fine the edge is frayed: the Gaussian's standard deviation, drawn evenly on a logarithmic scale."""

_FRAY = (0.5, 1.5)
"""How far the edge strays from a straight line, in grains; above 1 it leaves overhangs and crumbs."""

_EDGE_PX = 0.7
"""How soft the edge is, as a Gaussian's standard deviation: light passes half of the pixels on it."""

_BRIGHT = 220
"""Darkest channel from which on a pixel passes for glass: beside the tissue, or in the lumen of a tubule."""

_ENOUGH_BRIGHT = 0.01
"""Share of a sample that must be so bright for its own glass to be known."""

_GLASS = (228.0, 250.0)
_GLASS_TINT = 3.0


def tear(image: UInt8, labels: UInt8, rng: np.random.Generator) -> tuple[UInt8, UInt8]:
    """Tear a tenth to a half of a sample away, up to glass.

    Parameters
    ----------
    image : (h, w, 3) ndarray of uint8
        RGB.
    labels : (h, w) ndarray of uint8
        Class numbers; `IGNORE` where nothing is known.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        The same but for glass on one side of a frayed line: of the sample's own colour where it shows any,
        of a drawn one, nearly white, where it does not.
    labels : (h, w) ndarray of uint8
        The same but for class 0, the background, under the glass. What was `IGNORE` remains so.

    Notes
    -----
    Objects at the rim of the tissue are few in a few images and are the ones a network finds by half: it has
    seen them closed in by tissue on all sides. As cutout (DeVries and Taylor 2017, arXiv 1708.04552) with
    two differences: what is cut looks like what is really found there, and its labels go too.
    """
    lost = _lost(labels.shape, rng)
    glass = _glass(image, rng)
    share = cv2.GaussianBlur(lost.astype(np.float32), (0, 0), _EDGE_PX)[..., None]
    torn = image + share * (glass - image)
    return np.rint(torn).astype(np.uint8), np.where(lost & (labels != IGNORE), np.uint8(0), labels)


def _lost(size_px: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Select the pixels beyond the edge: the highest on a rough slope."""
    height, width = size_px
    angle = rng.uniform(0, 2 * math.pi)
    low, high = np.log(_GRAIN_PX)
    grain_px = math.exp(rng.uniform(low, high))
    roughness: Float32 = enlarge(smooth_field(rng, (height, width), grain_px), (height, width))[0]
    slope = math.sin(angle) * np.arange(height)[:, None] + math.cos(angle) * np.arange(width)[None, :]
    rough = slope + rng.uniform(*_FRAY) * grain_px * roughness
    return np.asarray(rough > np.quantile(rough, 1 - rng.uniform(*_LOST)))


def _glass(image: UInt8, rng: np.random.Generator) -> Float32:
    drawn = rng.uniform(*_GLASS) + rng.uniform(-_GLASS_TINT, _GLASS_TINT, 3)
    bright = image.min(axis=2) >= _BRIGHT
    if np.count_nonzero(bright) < _ENOUGH_BRIGHT * bright.size:
        return drawn.astype(np.float32)
    own: Float32 = image[bright].mean(axis=0, dtype=np.float32)
    return own


_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
"""The normal distribution in 256 equally likely values: one random byte per grain."""


@dataclass(frozen=True)
class Elastic:
    """Fine random deformation: the reference's ``[deformation]``.

    Parameters
    ----------
    alpha : float
        Strength. The displacement's root mean square is ``alpha / (2 sqrt(2) pi sigma**2)`` pixels.
    sigmas : tuple of float
        Smoothness in pixels; one is drawn for each sample.

    Notes
    -----
    The strength is that of uniform noise smoothed over rows, columns **and the three colours**, which is what
    the reference multiplies by `alpha`: 2.3 px for its defaults. One field serves image and labels
    (reference §6.7: it drew another for the labels, and one for each colour).
    """

    alpha: float = 1300.0
    sigmas: tuple[float, ...] = (8.0,)


@dataclass(frozen=True)
class Distortion:
    """Broad random distortion: the reference's ``[distortion]``.

    Parameters
    ----------
    distortions : tuple of float
        How far rows or columns move at most, as a share of the output's longer side; one is drawn for each
        sample.
    sigma, rsigma : float
        Standard deviations of the two Gaussians the field is smoothed with, in pixels.

    Notes
    -----
    The share is that of the larger of the two components at the points of a coarse grid. Between them cubic
    interpolation may go beyond it by some hundredths, and a pixel that moves along rows and columns at once
    goes up to sqrt(2) times as far as either.
    """

    distortions: tuple[float, ...] = (0.02,)
    sigma: float = 0.5
    rsigma: float = 40.0


@dataclass(frozen=True)
class RoundLens:
    """Barrel or pincushion: the reference's ``[barrdistortion]`` and ``[pincdistortion]``.

    Parameters
    ----------
    radius : float
        Share of the output's shorter side.
    amount : float
        Between -1 and 1; above 0 for a barrel, below 0 for a pincushion.
    centers : tuple of (x, y)
        Shares of width and height; one is drawn for each sample.
    """

    radius: float = 0.5
    amount: float = 0.5
    centers: tuple[tuple[float, float], ...] = ((0.5, 0.5),)


@dataclass(frozen=True)
class Brightening:
    """``value * alpha + beta``, cut at 0 and 255: the reference's ``[brightening]``."""

    alpha: float = 1.2
    beta: float = 10.0


@dataclass(frozen=True)
class Augmentation:
    """Augmentation settings of a sample; by default nothing is changed.

    Parameters
    ----------
    hflip, vflip : bool
        Mirror every second sample.
    rotation : bool
        Turn by one of `angles` or not at all, all equally likely.
    angles : tuple of float
        Degrees, counter-clockwise.
    free_rotation : bool
        Turn by any angle; takes the place of `rotation`.
    scales : tuple of float, optional
        ``(lowest, highest)`` enlargement, drawn evenly on a logarithmic scale for every sample.
    shrinks : tuple of float
        Enlargements (below 1: smaller) of which one is drawn. Empty: off.
    shears : tuple of float
        Shears of which one is drawn. Empty: off.
    elastic : Elastic, optional
    distortion : Distortion, optional
    barrel, pincushion : RoundLens, optional
    tears : float
        Share of samples, 0 to 1, that lose a part of their tissue: a frayed edge, glass beyond it.
    sharpening : float, optional
        The reference's ``[sharpening] k``: the share of the difference to the 3x3 mean that is added.
    brightening : Brightening, optional
    stain : float
        Strength 0 to 1 of the change of dyes, made for every sample.
    other_dyes : float
        Share of samples, 0 to 1, that are stained with dyes of any colour instead.
    blur : float
        Largest standard deviation of the Gaussian, in pixels.
    noise : float
        Largest standard deviation of the camera's noise, in 8-bit steps.
    jpeg : tuple of int, optional
        ``(lowest, highest)`` JPEG quality, 1 to 100.
    probability : float
        How often each of shrink, shear, elastic, distortion, lens, sharpening, brightening, blur, noise and
        JPEG happens.

    Raises
    ------
    ConfigError
        When a number, those of the parts included, is NaN, infinite or out of its range, or there is nothing
        to draw from.
    """

    hflip: bool = False
    vflip: bool = False
    rotation: bool = False
    angles: tuple[float, ...] = (90.0, 180.0, 270.0)
    free_rotation: bool = False
    scales: tuple[float, float] | None = None
    shrinks: tuple[float, ...] = ()
    shears: tuple[float, ...] = ()
    elastic: Elastic | None = None
    distortion: Distortion | None = None
    barrel: RoundLens | None = None
    pincushion: RoundLens | None = None
    tears: float = 0.0
    sharpening: float | None = None
    brightening: Brightening | None = None
    stain: float = 0.0
    other_dyes: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: tuple[int, int] | None = None
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_shares(self)
        _check_sizes(self)


def augmentation_of(config: Config) -> Augmentation:
    """Return what the augmentation sections of a config switch on."""
    on = config.augmentor
    elastic = config.deformation
    barrel, pincushion = config.barrdistortion, config.pincdistortion
    return Augmentation(
        hflip=on.hflip,
        vflip=on.vflip,
        rotation=on.rotation,
        angles=on.angles,
        free_rotation=on.free_rotation,
        scales=on.scales,
        shrinks=on.shrinks,
        shears=on.shears,
        elastic=Elastic(elastic.alpha, elastic.sigmoids or (elastic.sigmoid,)) if on.deformation else None,
        distortion=(
            Distortion(
                config.distortion.distortions,
                config.distortion.gaussian_filter_sigma,
                config.distortion.gaussian_filter_rsigma,
            )
            if on.distortion
            else None
        ),
        barrel=RoundLens(barrel.radius, barrel.amount, barrel.centers) if on.barrdistortion else None,
        pincushion=(
            RoundLens(pincushion.radius, pincushion.amount, pincushion.centers) if on.pincdistortion else None
        ),
        tears=on.tears,
        sharpening=config.sharpening.k if on.sharpening else None,
        brightening=(
            Brightening(config.brightening.alpha, config.brightening.beta) if on.brightening else None
        ),
        stain=on.stain,
        other_dyes=on.other_dyes,
        blur=on.blur,
        noise=on.noise,
        jpeg=on.jpeg,
    )


def augment(
    image: UInt8,
    labels: UInt8,
    *,
    rng: np.random.Generator,
    settings: Augmentation,
    window: tuple[float, float] | None = None,
    out_px: tuple[int, int] | None = None,
) -> tuple[UInt8, UInt8]:
    """Make one training sample of an image and its labels.

    Parameters
    ----------
    image : (H, W, 3) ndarray of uint8
        RGB. Larger than the sample, it lends turned and shrunk samples real tissue up to their corners.
    labels : (H, W) ndarray of uint8
        Class numbers.
    rng : numpy.random.Generator
        The only source of chance: the same state gives the same sample, on any thread.
    settings : Augmentation
        What may happen.
    window : tuple of float, optional
        ``(y, x)`` centre of the sample, measured from the image's top left corner so that the middle of the
        image is ``(H / 2, W / 2)``, the default. Moved to the nearest whole pixel.
    out_px : tuple of int, optional
        ``(h, w)`` of the sample; the image's own size by default.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
    labels : (h, w) ndarray of uint8
        Moved exactly as the image, read from the nearest pixel, never recoloured; background where tissue
        is torn away.

    Raises
    ------
    InputError
        If the image is not ``(H, W, 3) uint8``, the labels not ``(H, W) uint8`` of the same size, either is
        empty or `out_px` is not at least 1 x 1.

    Notes
    -----
    All geometry is one map and one resampling; beyond the image's edge tissue is mirrored. With nothing
    switched on the sample is the exact crop. Reference §6.7 and §6.11 are the faults this avoids.
    """
    _check_pair(image, labels)
    height, width = out_px if out_px is not None else labels.shape
    if height < 1 or width < 1:
        raise InputError("augment", f"expected out_px of at least 1 x 1, got {height} x {width}")
    centre = window if window is not None else (labels.shape[0] / 2, labels.shape[1] / 2)
    corner = (math.floor(centre[0] - height / 2 + 0.5), math.floor(centre[1] - width / 2 + 0.5))
    warp = draw_warp(settings, rng, (height, width))
    pixels, truth = resample(image, labels, warp, corner, (height, width))
    if settings.tears > 0 and rng.random() < settings.tears:
        pixels, truth = tear(pixels, truth, rng)
    return recolour(pixels, rng, settings), truth


def draw_warp(settings: Augmentation, rng: np.random.Generator, out_px: tuple[int, int]) -> Warp:
    """Draw the geometry of one sample of `out_px` pixels."""
    angle_deg = 0.0
    if settings.free_rotation:
        angle_deg = float(rng.uniform(0, 360))
    elif settings.rotation:
        angle_deg = _one_of((0.0, *settings.angles), rng)
    scale = 1.0
    if settings.scales is not None:
        low, high = settings.scales
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    if settings.shrinks and _happens(settings, rng):
        scale *= _one_of(settings.shrinks, rng)
    shear = _one_of(settings.shears, rng) if settings.shears and _happens(settings, rng) else 0.0
    matrix = affine(
        hflip=settings.hflip and rng.random() < 0.5,
        vflip=settings.vflip and rng.random() < 0.5,
        angle_deg=angle_deg,
        scale=scale,
        shear=shear,
    )
    lenses = []
    for lens in (settings.barrel, settings.pincushion):
        if lens is not None and _happens(settings, rng):
            centre = lens.centers[int(rng.integers(len(lens.centers)))]
            lenses.append(Lens(centre=centre, radius=lens.radius, amount=lens.amount))
    return Warp(matrix, tuple(lenses), _draw_displacement(settings, rng, out_px))


def recolour(image: UInt8, rng: np.random.Generator, settings: Augmentation) -> UInt8:
    """Draw and apply what changes colours and sharpness: staining first, then optics, camera, file."""
    if settings.other_dyes > 0 and rng.random() < settings.other_dyes:
        image = other_dyes(image, rng)
    elif settings.stain > 0:
        image = vary_stain(image, rng, settings.stain)
    if settings.brightening is not None and _happens(settings, rng):
        image = _brightened(image, settings.brightening)
    if settings.sharpening is not None and _happens(settings, rng):
        image = _sharpened(image, settings.sharpening)
    if settings.blur > 0 and _happens(settings, rng):
        sigma = float(rng.uniform(0.2, 1) * settings.blur)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    if settings.noise > 0 and _happens(settings, rng):
        image = _with_grain(image, rng, float(rng.uniform(0, settings.noise)))
    if settings.jpeg is not None and _happens(settings, rng):
        image = _through_jpeg(image, int(rng.integers(settings.jpeg[0], settings.jpeg[1] + 1)))
    return image


def _brightened(image: UInt8, brightening: Brightening) -> UInt8:
    steps = np.rint(np.arange(256) * brightening.alpha + brightening.beta)
    return np.asarray(cv2.LUT(image, np.clip(steps, 0, 255).astype(np.uint8)), dtype=np.uint8)


def _sharpened(image: UInt8, k: float) -> UInt8:
    kernel = np.full((3, 3), -k / 9, np.float32)
    kernel[1, 1] += 1 + k
    return np.asarray(cv2.filter2D(image, -1, kernel), dtype=np.uint8)


def _with_grain(image: UInt8, rng: np.random.Generator, sigma: float) -> UInt8:
    chance = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    grain = cv2.LUT(chance, np.rint(_NORMAL * sigma).astype(np.int16))
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), dtype=np.uint8)


def _draw_displacement(
    settings: Augmentation, rng: np.random.Generator, out_px: tuple[int, int]
) -> Float32 | None:
    total: Float32 | None = None
    if settings.elastic is not None and _happens(settings, rng):
        sigma = _one_of(settings.elastic.sigmas, rng)
        strength_px = settings.elastic.alpha / (2 * math.sqrt(2) * math.pi * sigma**2)
        total = enlarge(smooth_field(rng, out_px, sigma) * np.float32(strength_px), out_px)
    if settings.distortion is not None and _happens(settings, rng):
        field = smooth_field(rng, out_px, math.hypot(settings.distortion.sigma, settings.distortion.rsigma))
        largest_px = _one_of(settings.distortion.distortions, rng) * max(out_px)
        field *= np.float32(largest_px / max(float(np.abs(field).max()), 1e-6))
        broad = enlarge(field, out_px)
        total = broad if total is None else np.add(total, broad, out=total)
    return total


def _through_jpeg(image: UInt8, quality: int) -> UInt8:
    # OpenCV expects blue, green, red; otherwise it would subsample the wrong channels.
    written, stream = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not written:
        raise InputError(
            "augment",
            f"expected an image within the size limit of JPEG, got {image.shape[0]} x {image.shape[1]}",
        )
    blue_first = np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(blue_first, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _happens(settings: Augmentation, rng: np.random.Generator) -> bool:
    return bool(rng.random() < settings.probability)


def _one_of(values: Sequence[float], rng: np.random.Generator) -> float:
    return float(values[int(rng.integers(len(values)))])


def _check_pair(image: UInt8, labels: UInt8) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("augment", f"expected an (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise InputError("augment", f"expected (H, W) uint8 labels, got {labels.shape} {labels.dtype}")
    if image.shape[:2] != labels.shape:
        raise InputError("augment", f"expected labels of size {image.shape[:2]}, got {labels.shape}")
    if labels.size == 0:
        raise InputError("augment", f"expected at least one pixel, got an image of {image.shape}")


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"augmentation {name}", f"expected {expected}, got {got!r}")


def _check_shares(settings: Augmentation) -> None:
    for name in ("tears", "stain", "other_dyes", "probability"):
        value = getattr(settings, name)
        _require(0 <= value <= 1, name, "a number from 0 to 1", value)
    for name in ("blur", "noise"):
        value = getattr(settings, name)
        _require(0 <= value < math.inf, name, "a number of at least 0", value)
    if settings.jpeg is not None:
        low, high = settings.jpeg
        _require(1 <= low <= high <= 100, "jpeg", "lowest and highest quality from 1 to 100", settings.jpeg)


def _check_sizes(settings: Augmentation) -> None:
    for name in ("angles", "shears"):
        values = getattr(settings, name)
        _require(all(map(math.isfinite, values)), name, "finite numbers", values)
    if settings.scales is not None:
        low, high = settings.scales
        _require(
            0 < low <= high < math.inf, "scales", "lowest and highest enlargement above 0", settings.scales
        )
    _require(all(0 < s < math.inf for s in settings.shrinks), "shrinks", "factors above 0", settings.shrinks)
    if settings.elastic is not None:
        sigmas = settings.elastic.sigmas
        fits = bool(sigmas) and all(0.5 <= sigma < math.inf for sigma in sigmas)
        _require(fits, "elastic sigmas", "at least one, of 0.5 or more", sigmas)
        _require_finite("elastic alpha", settings.elastic.alpha)
    if settings.distortion is not None:
        shares, sigma, rsigma = (getattr(settings.distortion, n) for n in ("distortions", "sigma", "rsigma"))
        fits = bool(shares) and all(map(math.isfinite, shares))
        _require(fits, "distortion distortions", "at least one share, all finite", shares)
        _require_finite("distortion sigma", sigma)
        _require(0.5 <= rsigma < math.inf, "distortion rsigma", "a number of at least 0.5", rsigma)
    for name in ("barrel", "pincushion"):
        lens = getattr(settings, name)
        if lens is not None:
            _require(-1 < lens.amount < 1, f"{name} amount", "a number between -1 and 1", lens.amount)
            _require(0 <= lens.radius <= 1, f"{name} radius", "a share from 0 to 1", lens.radius)
            fits = bool(lens.centers) and all(math.isfinite(part) for xy in lens.centers for part in xy)
            _require(fits, f"{name} centers", "at least one (x, y), all finite", lens.centers)
    if settings.sharpening is not None:
        _require_finite("sharpening", settings.sharpening)
    if settings.brightening is not None:
        _require_finite("brightening alpha", settings.brightening.alpha)
        _require_finite("brightening beta", settings.brightening.beta)


def _require_finite(name: str, value: float) -> None:
    _require(math.isfinite(value), name, "a finite number", value)
