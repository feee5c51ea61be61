"""Model card: the content of model.json."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from glomtile.config.schema import Byte, ModelSettings, ScaleRange
from glomtile.errors import ModelError
from glomtile.palette import Palette

FILE_NAME = "model.json"
BUNDLED = "glomeruli-pas"
"""Name of the bundled model."""

OWN_DIGEST = "card_sha256"
"""Key of model.json with the digest of the rest of the file."""

_NOT_DECIDING = {
    "scores", "versions", "data", "pretrained", "encoder_weights", "members", "epoch", "seed", "devices",
    "sha256", "runtime", "bytes_per_px", "tta", "threshold", "smoothing_px", "objects",
}  # fmt: skip
"""Fields that no result depends on, or that are recorded apart."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mpp = Annotated[float, Field(ge=0.05, le=20)]


class Record(BaseModel):
    """A part of a model card: frozen, known keys only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelClass(Record):
    """One class: its number in label arrays, its name, its colour in masks."""

    number: int = Field(ge=0, le=253)
    name: str
    rgb: tuple[Byte, Byte, Byte]


class TrainingData(Record):
    """Data and licence of a model's training.

    Parameters
    ----------
    name, licence, source : str
        Empty if not stated.
    images, valid_images : int
        Number of files for training and for choosing the best epoch; of an ensemble, of the member with most.
    digest : str
        Of the names and sizes of these files; may be empty.
    """

    name: str = ""
    licence: str = ""
    source: str = ""
    images: int = Field(default=0, ge=0)
    valid_images: int = Field(default=0, ge=0)
    digest: str = ""


class EncoderSource(Record):
    """Initial weights of the encoder.

    Parameters
    ----------
    name : str
        Package and data, or name of a file.
    licence : str
        Licence of the weights; empty where it is not known.
    sha256 : str
        Digest of the file.
    """

    name: str
    licence: str = ""
    sha256: Digest


class ParentModel(Record):
    """The model that another one was fine-tuned from.

    Parameters
    ----------
    name : str
        Its folder and the one above, for example ``"models/best"``; the bundled model's own name.
    sha256 : str
        Digest of its network's file.
    data : TrainingData
        Its licence applies to the weights.
    pretrained : ParentModel or None
        The model that it was fine-tuned from itself.
    encoder_weights : EncoderSource or None
        Initial weights of its encoder.
    """

    name: str
    sha256: Digest
    data: TrainingData = TrainingData()
    pretrained: ParentModel | None = None
    encoder_weights: EncoderSource | None = None


class ObjectSettings(Record):
    """Post-processing of labels into objects; see `glomtile.objects.postprocessing.ShapingRules`.

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


class RuntimeFile(Record):
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


class ReferenceDistribution(Record):
    """Distribution of one aspect of the training images; see `inference.quality_control.fit_reference`.

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


class ScaleEstimator(Record):
    """Linear regression of tissue scale on detail; see `inference.quality_control.fit_scale_estimator`.

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


class ReferenceStatistics(Record):
    """Appearance of the training images, by which out-of-distribution images are recognised.

    Parameters
    ----------
    feature_version : int
        Of the features' definition, `glomtile.inference.quality_control.FEATURE_VERSION`.
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


class ModelCard(Record):
    """Content of ``model.json``: the facts that a network needs beside its weights.

    Parameters
    ----------
    network : ModelSettings
        The [model] section of its training.
    classes : tuple of ModelClass
        Sorted by number, background first.
    color_order : {"RGB", "BGR"}
        Channel order of the network's input.
    mpp : float or None
        Micrometres per pixel of the training, `None` if not known.
    mpp_range : (float, float) or None
        Lowest and highest scale of its training images, including augmentation.
    tile_px : (int, int)
        ``(height, width)`` of a training sample.
    overlap_px : int
        Default margin per side of a window.
    tta : str
        Default test-time augmentation.
    threshold : float
        Default foreground threshold.
    smoothing_px : float
        Sigma of the Gaussian smoothing of the input, in pixels of the network.
    min_expected_dice : float
        Results with a lower expected Dice are flagged.
    objects : ObjectSettings
        Post-processing.
    stride_px, context_px : int
        The network's stride and context.
    bytes_per_px : float or None
        Memory of a forward pass per pixel of a window.
    runtime : RuntimeFile or None
        Exported network, which needs no Keras.
    data : TrainingData
    pretrained : ParentModel or None
        The model that it was fine-tuned from.
    encoder_weights : EncoderSource or None
        Initial weights of its encoder.
    members : tuple of ParentModel
        The models of an ensemble; empty for a single network.
    reference_statistics : ReferenceStatistics or None
        Appearance of the training images; without it results are not compared with them.
    epoch : int
        Finished epochs, counted from 1; 0 for an untrained network.
    seed : int
    devices : int
        Number of devices of its training.
    scores : dict
        Scores with their intervals.
    versions : dict
        Package to version, of the training.
    sha256 : dict
        File of the folder to the digest of its content.
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
    encoder_weights: EncoderSource | None = None
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
        """True if a prediction depends on a pixel's surroundings only, not on the whole window."""
        return self.network.local

    @property
    def deciding_digest(self) -> str:
        """SHA-256 of the fields that decide results: scale, classes, geometry, reference statistics."""
        deciding = self.model_dump_json(exclude=_NOT_DECIDING)
        return hashlib.sha256(deciding.encode()).hexdigest()

    def palette(self) -> Palette:
        """Return the palette of masks."""
        rgb_map = {entry.rgb: entry.number for entry in self.classes}
        return Palette.from_rgb_map(rgb_map, [entry.name for entry in self.classes])

    def to_json(self) -> str:
        """Return the text of model.json, with a digest that detects damage."""
        facts = json.loads(self.model_dump_json())
        return json.dumps({**facts, OWN_DIGEST: _digest(facts)}, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def classes_of(palette: Palette) -> tuple[ModelClass, ...]:
        """Return the card's classes of a palette."""
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
        facts: Any = None
        with suppress(ValueError, RecursionError):  # the validation describes what is wrong
            facts = json.loads(text)
        signed = isinstance(facts, dict) and OWN_DIGEST in facts
        if signed:
            expected = facts.pop(OWN_DIGEST)
            text = json.dumps(facts)
        try:
            card = cls.model_validate_json(text)
        except ValidationError as problem:
            from glomtile.config.findings import describe

            first = problem.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ModelError(
                where,
                f"expected a model card, got {describe(first['input'])} for {place}: {first['msg'].lower()}",
                hint="train or fetch the model again" if place == "the file" else None,
            ) from problem
        if signed and expected != (digest := _digest(facts)):
            named = "none" if expected is None else str(expected)[:12]
            raise ModelError(
                where,
                f"expected the content that its {OWN_DIGEST} names, {named}…, got {digest[:12]}…",
                "the card is damaged: copy the whole model folder again; if it was changed on purpose, take "
                f"the line {OWN_DIGEST} out",
            )
        return card


def _digest(facts: dict[str, JsonValue]) -> str:
    """Return the SHA-256 of a card's content, independent of indentation and order."""
    plain = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
