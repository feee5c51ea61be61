"""Model card: the content of model.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from glomtile.config.fields import Byte, ScaleRange, describe
from glomtile.config.schema import NORMS_OF_THE_WINDOW, ModelSettings
from glomtile.errors import ModelError
from glomtile.palette import Palette

FILE_NAME = "model.json"
BUNDLED = "glomeruli-pas"
"""The model that comes with the package."""

OWN_DIGEST = "card_sha256"
"""Key of model.json under which the digest of all else in it stands."""

_TOLD_ONLY = (
    "scores",
    "versions",
    "data",
    "pretrained",
    "members",
    "epoch",
    "seed",
    "devices",
    "sha256",
    "runtime",
    "bytes_per_px",
    "tta",
    "threshold",
    "smoothing_px",
    "objects",
)
"""What no result depends on, or is told of by itself (files' digests, turned copies, object rules)."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mpp = Annotated[float, Field(ge=0.05, le=20)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelClass(_Record):
    """One class: its number in label arrays, its name, its colour in masks."""

    number: int = Field(ge=0, le=253)
    name: str
    rgb: tuple[Byte, Byte, Byte]


class TrainingData(_Record):
    """What a model learned from, and under which licence.

    Parameters
    ----------
    name, licence, source : str
        In words; empty where nobody said.
    images, valid_images : int
        How many files were read for training and for choosing the best epoch; of an ensemble, by the member
        that read most, since members may share them.
    digest : str
        One digest over the names and sizes of these files; empty where it was not taken.
    """

    name: str = ""
    licence: str = ""
    source: str = ""
    images: int = Field(default=0, ge=0)
    valid_images: int = Field(default=0, ge=0)
    digest: str = ""


class ParentModel(_Record):
    """A model that another one's weights come from.

    Parameters
    ----------
    name : str
        Of its folder and the one that is in, ``"models/best"`` say; of the bundled model its own.
    sha256 : str
        Digest of its network's file.
    data : TrainingData
        What it had learned from: its licence goes with the weights.
    pretrained : Ancestor or None
        The model that its own training began with.
    """

    name: str
    sha256: Digest
    data: TrainingData = TrainingData()
    pretrained: ParentModel | None = None


class ObjectSettings(_Record):
    """How labels become objects; see `glomtile.objects.postprocessing.ShapingRules` for each.

    Parameters
    ----------
    fill_holes_um2 : float or None
        Holes up to this area are filled; `None` fills all.
    min_area_um2 : float
        Smaller objects are left out.
    split : bool
        Whether objects that touch are parted.
    split_depth : float
        How deep the neck between them must be.
    smooth_um : float
        How smooth outlines are.
    min_mean_probability : float
        Objects of a lower mean probability are left out.
    convex : bool
        Whether an object is taken for its convex hull.
    """

    fill_holes_um2: float | None = Field(default=None, ge=0)
    min_area_um2: float = Field(default=1000.0, ge=0)
    split: bool = True
    split_depth: float = Field(default=0.3, gt=0, lt=1)
    smooth_um: float = Field(default=2.0, ge=0)
    min_mean_probability: float = Field(default=0.0, ge=0, le=1)
    convex: bool = False


class RuntimeFile(_Record):
    """A network exported beside the trained one, for a runtime that is no training framework.

    Parameters
    ----------
    name : str
        Its file in the model folder.
    format : str
    precision : {"float32", "float16", "int8"}
        How weights are stored. float16 ones are computed with in float32; int8 ones in int8.
    max_difference : float
        Largest difference of a probability from the trained network's, found when it was exported.
    calibration_images : int
        How many images the ranges of int8 were taken from.
    """

    name: str = Field(pattern=r"^[^/\\]+$")
    format: Literal["onnx"] = "onnx"
    precision: Literal["float32", "float16", "int8"]
    max_difference: float = Field(ge=0, le=1)
    calibration_images: int = Field(default=0, ge=0)


class ReferenceDistribution(_Record):
    """Distribution of one aspect of the training images; see `glomtile.inference.ood.fit_reference`.

    Parameters
    ----------
    centre : tuple of float
        Mean of each feature.
    precision : tuple of tuple of float
        Inverse of their covariance.
    limit : float
        Distance that 95 % of the training images stay within, each measured without itself; at least 1.
    """

    centre: tuple[float, ...] = Field(min_length=1)
    precision: tuple[tuple[float, ...], ...]
    limit: float = Field(gt=0)

    @model_validator(mode="after")
    def _square(self) -> ReferenceDistribution:
        sides = {len(self.precision), *map(len, self.precision)}
        if sides != {len(self.centre)}:
            raise ValueError(f"expected a precision of {len(self.centre)} rows and columns")
        return self


class ScaleEstimator(_Record):
    """Linear regression of tissue scale on detail; see `glomtile.inference.ood.fit_scale_estimator`.

    Parameters
    ----------
    centre, spread, weights : tuple of float
        Mean, standard deviation and coefficient of each feature.
    offset : float
        Estimate at the centre, in doublings of size.
    low, high : float
        Limits of the training range, in doublings of size.
    """

    centre: tuple[float, ...] = Field(min_length=1)
    spread: tuple[Annotated[float, Field(gt=0)], ...]
    weights: tuple[float, ...]
    offset: float
    low: float = Field(lt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _same_length(self) -> ScaleEstimator:
        if not len(self.centre) == len(self.spread) == len(self.weights):
            raise ValueError(f"expected {len(self.centre)} numbers each for centre, spread and weights")
        return self


class ReferenceStatistics(_Record):
    """Appearance of the training images, by which out-of-distribution images are recognised.

    Parameters
    ----------
    feature_version : int
        Of the features' definition, `glomtile.inference.ood.FEATURE_VERSION`.
    images : int
        Number of training images measured.
    stain, brightness, sharpness : ReferenceDistribution
    scale : ScaleEstimator
    """

    feature_version: int = Field(ge=1)
    images: int = Field(ge=1)
    stain: ReferenceDistribution
    brightness: ReferenceDistribution
    sharpness: ReferenceDistribution
    scale: ScaleEstimator


class ModelCard(_Record):
    """The facts beside a network's weights that using it needs.

    Parameters
    ----------
    network : ModelSettings
        The [model] section it was built with: channels, normalisation and all.
    classes : tuple of ModelClass
        Sorted by number, background first.
    color_order : {"RGB", "BGR"}
        Order of the channels the network sees.
    mpp : float or None
        Micrometres per pixel it was trained at, `None` when nobody knows.
    mpp_range : (float, float) or None
        Lowest and highest scale among its training images, scaling by augmentation included.
    tile_px : (int, int)
        ``(height, width)`` of a training sample.
    overlap_px : int
        Margin per side that tiled inference shares by default.
    tta : str
        Over which turned copies of a window the answer is averaged by default.
    threshold : float
        Probability of not being background from which a pixel is not.
    smoothing_px : float
        Standard deviation (px of the network) of the Gaussian that windows are smoothed with.
    min_expected_dice : float
        Results with a lower expected Dice are flagged.
    objects : ObjectSettings
        How labels become objects.
    stride_px, context_px : int
        The network's geometry: shifts that change nothing else, and how far a pixel sees.
    bytes_per_px : float or None
        Memory of a forward pass per pixel of a window, by which windows are chosen.
    runtime : RuntimeFile or None
        What `segment` runs without Keras.
    data : TrainingData
    pretrained : Ancestor or None
        The model whose weights its training began with; `None` where it began with none.
    members : tuple of Ancestor
        The models that it answers as on average; none of a single network.
    reference_statistics : ReferenceStatistics or None
        Appearance of the training images; without it results are not compared with them.
    epoch : int
        Finished epochs, counted from 1; 0 for an untrained network.
    seed : int
    devices : int
        How many shared each batch of its training.
    scores : dict
        Figures with their intervals, as JSON has them.
    versions : dict
        Package to version, of the run that trained it.
    sha256 : dict
        File of the folder to the digest of its bytes; detects damage.
    """

    format: Literal[1] = 1
    network: ModelSettings
    classes: tuple[ModelClass, ...] = Field(min_length=1)
    color_order: Literal["RGB", "BGR"] = "RGB"
    mpp: Mpp | None = None
    mpp_range: ScaleRange | None = None
    tile_px: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    overlap_px: int = Field(default=0, ge=0)
    tta: Literal["none", "flips", "rotations", "all"] = "none"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    smoothing_px: float = Field(default=0.0, ge=0, le=3)
    min_expected_dice: float = Field(default=0.8, ge=0, le=1)
    objects: ObjectSettings = ObjectSettings()
    stride_px: int = Field(ge=1)
    context_px: int = Field(ge=0)
    bytes_per_px: float | None = Field(default=None, gt=0)
    runtime: RuntimeFile | None = None
    data: TrainingData = TrainingData()
    pretrained: ParentModel | None = None
    members: tuple[ParentModel, ...] = ()
    reference_statistics: ReferenceStatistics | None = None
    epoch: int = Field(default=0, ge=0)
    seed: int = Field(default=137, ge=0)
    devices: int = Field(default=1, ge=1)
    scores: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, Digest] = Field(default_factory=dict)

    @property
    def local(self) -> bool:
        """Whether a pixel's answer depends on its surroundings only, not on the whole window."""
        return self.network.norm not in NORMS_OF_THE_WINDOW

    @property
    def deciding_digest(self) -> str:
        """SHA-256 over what of the card decides results: scale, classes, geometry, how tissue looked."""
        told = self.model_dump_json(exclude=set(_TOLD_ONLY))
        return hashlib.sha256(told.encode()).hexdigest()

    def palette(self) -> Palette:
        """Classes, names and colours, as masks are written with."""
        rgb_map = {entry.rgb: entry.number for entry in self.classes}
        return Palette.from_rgb_map(rgb_map, [entry.name for entry in self.classes])

    def to_json(self) -> str:
        """The text of model.json, with the digest of its own content, which detects damage."""
        facts = json.loads(self.model_dump_json())
        return json.dumps({**facts, OWN_DIGEST: _digest(facts)}, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def classes_of(palette: Palette) -> tuple[ModelClass, ...]:
        """The card's classes from a palette."""
        return tuple(ModelClass(number=c.number, name=c.name, rgb=c.rgb) for c in palette.classes)

    @classmethod
    def from_json(cls, text: str, where: str | Path = FILE_NAME) -> ModelCard:
        """Read model.json.

        A card without a digest of its own, as older ones are, is taken as it is.

        Raises
        ------
        ModelError
            The text is no model card, one of a later format, or another than was written.
        """
        rest, expected = _without_digest(text)
        try:
            card = cls.model_validate_json(rest)
        except ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ModelError(
                where,
                f"expected a model card, got {describe(first['input'])} for {place}: {first['msg'].lower()}",
                hint="train or fetch the model again" if place == "the file" else None,
            ) from problem
        if expected is not None and expected != (digest := _digest(json.loads(rest))):
            raise ModelError(
                where,
                f"expected the content that its {OWN_DIGEST} names, {str(expected)[:12]}…, "
                f"got {digest[:12]}…",
                "the card is damaged: copy the whole model folder again; if it was changed on purpose, take "
                f"the line {OWN_DIGEST} out",
            )
        return card


def _without_digest(text: str) -> tuple[str, JsonValue]:
    """The card as a text without its digest, and that; what is no JSON object is left to the validation."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return text, None
    if not isinstance(facts, dict) or OWN_DIGEST not in facts:
        return text, None
    expected = facts.pop(OWN_DIGEST)
    return json.dumps(facts), "none" if expected is None else expected


def _digest(facts: dict[str, JsonValue]) -> str:
    """SHA-256 of a card's content, however its file is indented and ordered."""
    plain = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
