"""Augmentation of images together with their masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.config.schema import (
    BarrDistortionSettings,
    BrighteningSettings,
    Config,
    DeformationSettings,
    DistortionSettings,
    PincDistortionSettings,
)
from glomtile.errors import ConfigError
from glomtile.training.stain import other_dyes, vary_stain
from glomtile.types import IGNORE, Float32, UInt8

Matrix = NDArray[np.float64]
"""``(2, 2)``, rows before columns: takes an offset from the output's centre to one in the source."""

_BAND_ROWS = 32
"""Rows mapped at once, few enough for the floats of a wide sample to stay in the processor's cache."""

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


@dataclass(frozen=True)
class Lens:
    """A round region that is magnified (barrel) or shrunk (pincushion) towards its centre.

    Parameters
    ----------
    centre : tuple of float
        ``(x, y)`` as shares of the output's width and height, as the reference's config writes it.
    radius : float
        Share of the output's shorter side; tissue outside the circle stays where it is.
    amount : float
        Greater than -1 and less than 1: above 0 the centre is enlarged ``1 / (1 - amount)`` times,
        below 0 it is made smaller by the same rule.
    """

    centre: tuple[float, float]
    radius: float
    amount: float


@dataclass(frozen=True)
class Warp:
    """Every geometric change of one sample, not yet applied to anything.

    Parameters
    ----------
    matrix : (2, 2) ndarray of float64
        See `Matrix`.
    lenses : tuple of Lens
        Applied to output positions, first to last.
    displacement : (2, h, w) ndarray of float32, optional
        Added to output positions, in output pixels; rows first.
    """

    matrix: Matrix
    lenses: tuple[Lens, ...] = ()
    displacement: Float32 | None = None


def affine(
    *,
    hflip: bool = False,
    vflip: bool = False,
    angle_deg: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
) -> Matrix:
    """Compose flips, a turn, a scale and a shear about the centre.

    Parameters
    ----------
    hflip, vflip : bool
        Mirror left to right, top to bottom.
    angle_deg : float
        Counter-clockwise, in degrees.
    scale : float
        Above 1 tissue becomes larger, below 1 smaller.
    shear : float
        Columns a row moves for every row it lies below the centre.

    Returns
    -------
    (2, 2) ndarray of float64
        From output offset to source offset, so every part is its own inverse here.
    """
    angle = math.radians(angle_deg)
    cos, sin = round(math.cos(angle), 12), round(math.sin(angle), 12)
    turn = np.array([[cos, sin], [-sin, cos]])
    lean = np.array([[1.0, 0.0], [-shear, 1.0]])
    flip = np.diag([-1.0 if vflip else 1.0, -1.0 if hflip else 1.0])
    composed: Matrix = (turn @ lean @ flip) / scale
    return composed


def smooth_field(rng: np.random.Generator, size_px: tuple[int, int], sigma_px: float) -> Float32:
    """Draw a smooth random vector field of root mean square about 1 per component, on a coarse grid.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where chance comes from.
    size_px : tuple of int
        ``(h, w)`` that the field is to cover.
    sigma_px : float
        Standard deviation of the Gaussian that smooths white noise, at least 0.5.

    Returns
    -------
    (2, rows, columns) ndarray of float32
        Rows first; a cell spans about half `sigma_px`, for a field that smooth holds nothing finer.
        See `enlarge`.
    """
    step = max(1, int(sigma_px / 2))
    rows, columns = (max(2, -(-side // step)) for side in size_px)
    reach = math.ceil(3 * sigma_px / step)
    gaussian = np.asarray(cv2.getGaussianKernel(2 * reach + 1, sigma_px / step), dtype=np.float64)
    kernel = (gaussian / np.linalg.norm(gaussian)).astype(np.float32)
    noise = rng.standard_normal((2, rows + 2 * reach, columns + 2 * reach), dtype=np.float32)
    # The margin keeps the rim as lively as the middle: mirrored noise would move it further.
    smooth = [cv2.sepFilter2D(component, cv2.CV_32F, kernel, kernel) for component in noise]
    field = np.stack(smooth)[:, reach : reach + rows, reach : reach + columns]
    return np.ascontiguousarray(field, dtype=np.float32)


def enlarge(field: Float32, size_px: tuple[int, int]) -> Float32:
    """Interpolate a coarse ``(2, rows, columns)`` field to ``(2, h, w)``."""
    height, width = size_px
    full = np.empty((2, height, width), np.float32)
    for component, into in zip(field, full, strict=True):
        cv2.resize(component, (width, height), dst=into, interpolation=cv2.INTER_CUBIC)
    return full


def resample(
    image: UInt8, labels: UInt8, warp: Warp, corner: tuple[int, int], out_px: tuple[int, int]
) -> tuple[UInt8, UInt8]:
    """Read image and labels once, through one map.

    Parameters
    ----------
    image : (H, W, 3) ndarray of uint8
    labels : (H, W) ndarray of uint8
    warp : Warp
        Geometry about the window's centre.
    corner : tuple of int
        ``(top, left)`` of the window in the image; may lie outside.
    out_px : tuple of int
        ``(h, w)`` of the window.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        Linear between pixels; mirrored where the map leaves the image.
    labels : (h, w) ndarray of uint8
        The nearest pixel of the same map: no value that `labels` does not hold.
    """
    pixels = np.empty((*out_px, 3), np.uint8)
    truth = np.empty(out_px, np.uint8)
    for top in range(0, out_px[0], _BAND_ROWS):
        band = slice(top, min(out_px[0], top + _BAND_ROWS))
        map_rows, map_columns = _maps(warp, corner, out_px, band)
        rows, columns = _span(map_rows, image.shape[0]), _span(map_columns, image.shape[1])
        map_rows -= rows.start
        map_columns -= columns.start
        for plane, into, how in ((image, pixels, cv2.INTER_LINEAR), (labels, truth, cv2.INTER_NEAREST)):
            cv2.remap(
                plane[rows, columns],
                map_columns,
                map_rows,
                how,
                dst=into[band],
                borderMode=cv2.BORDER_REFLECT_101,
            )
    return pixels, truth


def _maps(
    warp: Warp, corner: tuple[int, int], out_px: tuple[int, int], band: slice
) -> tuple[Float32, Float32]:
    """Source row and column, in indices of the image, of the output pixels in a band of rows."""
    height, width = out_px
    rows = (np.arange(band.start, band.stop, dtype=np.float32) - np.float32((height - 1) / 2))[:, None]
    columns = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2))[None, :]
    for lens in warp.lenses:
        rows, columns = _through(lens, rows, columns, out_px)
    if warp.displacement is not None:
        rows = rows + warp.displacement[0, band]
        columns = columns + warp.displacement[1, band]
    matrix = warp.matrix.astype(np.float32)
    map_rows: Float32 = matrix[0, 0] * rows + matrix[0, 1] * columns
    map_rows += np.float32(corner[0] + (height - 1) / 2)
    map_columns: Float32 = matrix[1, 0] * rows + matrix[1, 1] * columns
    map_columns += np.float32(corner[1] + (width - 1) / 2)
    return map_rows, map_columns


def _through(lens: Lens, rows: Float32, columns: Float32, out_px: tuple[int, int]) -> tuple[Float32, Float32]:
    height, width = out_px
    centre_row = np.float32((lens.centre[1] - 0.5) * height)
    centre_column = np.float32((lens.centre[0] - 0.5) * width)
    radius_px = max(lens.radius * min(height, width), 1e-6)
    from_row, from_column = rows - centre_row, columns - centre_column
    nearness = 1 - (from_row * from_row + from_column * from_column) / np.float32(radius_px**2)
    np.maximum(nearness, 0, out=nearness)
    nearness *= nearness
    nearness *= np.float32(-lens.amount)
    moved_rows = np.add(rows, from_row * nearness, dtype=np.float32)
    return moved_rows, np.add(columns, from_column * nearness, dtype=np.float32)


def _span(coordinates: Float32, size: int) -> slice:
    """Return the interval of one axis that a map reads, mirrored; OpenCV maps at most 32,767 px."""
    low, high = math.floor(float(coordinates.min())) - 1, math.ceil(float(coordinates.max())) + 2
    if low < 0:
        high = max(high, 2 - low)
    if high > size:
        low = min(low, 2 * size - high - 2)
    return slice(max(0, low), min(size, high))


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
    glass = (rng.uniform(*_GLASS) + rng.uniform(-_GLASS_TINT, _GLASS_TINT, 3)).astype(np.float32)
    bright = image.min(axis=2) >= _BRIGHT
    if np.count_nonzero(bright) >= _ENOUGH_BRIGHT * bright.size:
        glass = image[bright].mean(axis=0, dtype=np.float32)
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


_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
"""The normal distribution in 256 equally likely values: one random byte per grain."""


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
    elastic : DeformationSettings, optional
        One field serves image and labels (reference §6.7: it drew another for the labels, and one for each
        colour).
    distortion : DistortionSettings, optional
        Rows or columns move by a share of the sample's longer side at most, a pixel that moves along both
        sqrt(2) times as far. Between the points of the coarse grid that is drawn, cubic interpolation may go
        beyond it by some hundredths.
    barrel : BarrDistortionSettings, optional
    pincushion : PincDistortionSettings, optional
    tears : float
        Share of samples, 0 to 1, that lose a part of their tissue: a frayed edge, glass beyond it.
    sharpening : float, optional
        The reference's ``[sharpening] k``: the share of the difference to the 3x3 mean that is added.
    brightening : BrighteningSettings, optional
        ``value * alpha + beta``, cut at 0 and 255.
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
        There is nothing to draw from, or a field cannot be so rough or a lens so strong.
    """

    hflip: bool = False
    vflip: bool = False
    rotation: bool = False
    angles: tuple[float, ...] = (90.0, 180.0, 270.0)
    free_rotation: bool = False
    scales: tuple[float, float] | None = None
    shrinks: tuple[float, ...] = ()
    shears: tuple[float, ...] = ()
    elastic: DeformationSettings | None = None
    distortion: DistortionSettings | None = None
    barrel: BarrDistortionSettings | None = None
    pincushion: PincDistortionSettings | None = None
    tears: float = 0.0
    sharpening: float | None = None
    brightening: BrighteningSettings | None = None
    stain: float = 0.0
    other_dyes: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: tuple[int, int] | None = None
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what the config's ranges allow, since a switched-off section may hold it."""
        if (elastic := self.elastic) is not None:
            sigmas = elastic.sigmoids or (elastic.sigmoid,)
            _require(min(sigmas) >= 0.5, "elastic sigmas", "at least one, of 0.5 or more", sigmas)
        if (broad := self.distortion) is not None:
            shares, rsigma = broad.distortions, broad.gaussian_filter_rsigma
            _require(bool(shares), "distortion distortions", "at least one share, all finite", shares)
            _require(rsigma >= 0.5, "distortion rsigma", "a number of at least 0.5", rsigma)
        for name, lens in (("barrel", self.barrel), ("pincushion", self.pincushion)):
            if lens is not None:
                _require(-1 < lens.amount < 1, f"{name} amount", "a number between -1 and 1", lens.amount)
                fits = bool(lens.centers)
                _require(fits, f"{name} centers", "at least one (x, y), all finite", lens.centers)


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"augmentation {name}", f"expected {expected}, got {got!r}")


def augmentation_of(config: Config) -> Augmentation:
    """Return what the augmentation sections of a config switch on."""
    on = config.augmentor
    return Augmentation(
        hflip=on.hflip,
        vflip=on.vflip,
        rotation=on.rotation,
        angles=on.angles,
        free_rotation=on.free_rotation,
        scales=on.scales,
        shrinks=on.shrinks,
        shears=on.shears,
        elastic=config.deformation if on.deformation else None,
        distortion=config.distortion if on.distortion else None,
        barrel=config.barrdistortion if on.barrdistortion else None,
        pincushion=config.pincdistortion if on.pincdistortion else None,
        tears=on.tears,
        sharpening=config.sharpening.k if on.sharpening else None,
        brightening=config.brightening if on.brightening else None,
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

    Notes
    -----
    All geometry is one map and one resampling; beyond the image's edge tissue is mirrored. With nothing
    switched on the sample is the exact crop. Reference §6.7 and §6.11 are the faults this avoids.
    """
    height, width = out_px if out_px is not None else labels.shape
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
        steps = np.rint(np.arange(256) * settings.brightening.alpha + settings.brightening.beta)
        image = np.asarray(cv2.LUT(image, np.clip(steps, 0, 255).astype(np.uint8)), np.uint8)
    if settings.sharpening is not None and _happens(settings, rng):
        kernel = np.full((3, 3), -settings.sharpening / 9, np.float32)
        kernel[1, 1] += 1 + settings.sharpening
        image = np.asarray(cv2.filter2D(image, -1, kernel), np.uint8)
    if settings.blur > 0 and _happens(settings, rng):
        sigma = float(rng.uniform(0.2, 1) * settings.blur)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    if settings.noise > 0 and _happens(settings, rng):
        sigma = float(rng.uniform(0, settings.noise))
        chance = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        grain = cv2.LUT(chance, np.rint(_NORMAL * sigma).astype(np.int16))
        image = np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), np.uint8)
    if settings.jpeg is not None and _happens(settings, rng):
        quality = int(rng.integers(settings.jpeg[0], settings.jpeg[1] + 1))
        # OpenCV expects blue, green, red; otherwise it would subsample the wrong channels.
        blue_first = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, stream = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR))
        image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    return image


def _draw_displacement(
    settings: Augmentation, rng: np.random.Generator, out_px: tuple[int, int]
) -> Float32 | None:
    total: Float32 | None = None
    if settings.elastic is not None and _happens(settings, rng):
        sigma = _one_of(settings.elastic.sigmoids or (settings.elastic.sigmoid,), rng)
        # That of noise smoothed over rows, columns and the three colours, which the reference multiplies.
        strength_px = settings.elastic.alpha / (2 * math.sqrt(2) * math.pi * sigma**2)
        total = enlarge(smooth_field(rng, out_px, sigma) * np.float32(strength_px), out_px)
    if settings.distortion is not None and _happens(settings, rng):
        broad = settings.distortion
        sigma = math.hypot(broad.gaussian_filter_sigma, broad.gaussian_filter_rsigma)
        field = smooth_field(rng, out_px, sigma)
        largest_px = _one_of(broad.distortions, rng) * max(out_px)
        field *= np.float32(largest_px / max(float(np.abs(field).max()), 1e-6))
        moved = enlarge(field, out_px)
        total = moved if total is None else np.add(total, moved, out=total)
    return total


def _happens(settings: Augmentation, rng: np.random.Generator) -> bool:
    return bool(rng.random() < settings.probability)


def _one_of(values: Sequence[float], rng: np.random.Generator) -> float:
    return float(values[int(rng.integers(len(values)))])
