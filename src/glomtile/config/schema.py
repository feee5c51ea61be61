"""The whole config: every section by its name, the folder its paths start from, and what was found odd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from glomtile.config.findings import Finding
from glomtile.config.schema_augment import (
    AugmentorSettings,
    BarrDistortionSettings,
    BrighteningSettings,
    DeformationSettings,
    DistortionSettings,
    GeneratorSettings,
    PincDistortionSettings,
    SharpeningSettings,
)
from glomtile.config.schema_fields import Section, expectation
from glomtile.config.schema_model import ModelSettings
from glomtile.config.schema_train import (
    DatasetSettings,
    DebugSettings,
    EvalSettings,
    ImageSettings,
    InferSettings,
    MaskSettings,
    PairSettings,
    SegmentationSettings,
    TiledInferSettings,
    TrainSettings,
)
from glomtile.core.palette import Palette
from glomtile.errors import ConfigError

__all__ = [
    "SECTIONS",
    "AugmentorSettings",
    "BarrDistortionSettings",
    "BrighteningSettings",
    "Config",
    "DatasetSettings",
    "DebugSettings",
    "DeformationSettings",
    "DistortionSettings",
    "EvalSettings",
    "GeneratorSettings",
    "ImageSettings",
    "InferSettings",
    "MaskSettings",
    "ModelSettings",
    "PairSettings",
    "PincDistortionSettings",
    "SegmentationSettings",
    "SharpeningSettings",
    "TiledInferSettings",
    "TrainSettings",
]


class Config(BaseModel):
    """Every setting of a run.

    Sections are attributes under the INI's own names. ``Config()`` holds the defaults;
    `glomtile.load_config` reads a file, ``glomtile.config.load.make_config`` a mapping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    train: TrainSettings = TrainSettings()
    valid: PairSettings = PairSettings()
    test: PairSettings = PairSettings()
    eval: EvalSettings = EvalSettings()
    infer: InferSettings = InferSettings()
    tiledinfer: TiledInferSettings = TiledInferSettings()
    image: ImageSettings = ImageSettings()
    mask: MaskSettings = MaskSettings()
    augmentor: AugmentorSettings = AugmentorSettings()
    deformation: DeformationSettings = DeformationSettings()
    distortion: DistortionSettings = DistortionSettings()
    barrdistortion: BarrDistortionSettings = BarrDistortionSettings()
    pincdistortion: PincDistortionSettings = PincDistortionSettings()
    brightening: BrighteningSettings = BrighteningSettings()
    sharpening: SharpeningSettings = SharpeningSettings()
    generator: GeneratorSettings = GeneratorSettings()
    debug: DebugSettings = DebugSettings()
    segmentation: SegmentationSettings = SegmentationSettings()

    _base_dir: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)
    _findings: tuple[Finding, ...] = PrivateAttr(default=())

    @property
    def base_dir(self) -> Path:
        """Absolute folder that the config's relative paths start from."""
        return self._base_dir

    @property
    def source(self) -> Path | None:
        """The file that was read, as it was named."""
        return self._source

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The warnings of reading it."""
        return self._findings

    def placed(
        self, base_dir: Path, source: Path | None = None, findings: tuple[Finding, ...] = ()
    ) -> Config:
        """The same settings, read from elsewhere."""
        copy = self.model_copy()
        copy._base_dir = base_dir.resolve()
        copy._source = source
        copy._findings = findings
        return copy

    def section(self, name: str) -> Section:
        """A section by its name."""
        found: Section = getattr(self, name)
        return found

    def need(self, section: str, key: str) -> Any:
        """A setting that a command cannot do without.

        Raises
        ------
        ConfigError
            The config does not say it, or says None.
        """
        settings = self.section(section)
        value = getattr(settings, key)
        if value is None or not settings.given(key):
            info = type(settings).model_fields[key]
            wanted = expectation(info).removesuffix(" or None")
            raise ConfigError(
                f"{self._source or 'config'} [{section}] {key}",
                f"expected {wanted} ({info.description}), got nothing",
                hint=f"write {key} = … under [{section}], or give --set {section}.{key}=…",
            )
        return value

    def folder(self, section: str, key: str) -> Path:
        """A path that a command cannot do without, absolute; see `need`."""
        return self.resolve(self.need(section, key))

    def resolve(self, path: str | Path) -> Path:
        """A path of this config, made absolute from the config's folder."""
        return Path(os.path.normpath(self._base_dir / path))

    def palette(self) -> Palette:
        """Classes, names and colours of [mask].

        Raises
        ------
        ConfigError
            `rgb_map` does not give each class 0, 1, … one colour, or `class_names` does not fit it.
        """
        return Palette.from_rgb_map(self.mask.rgb_map, self.mask.class_names)

    @property
    def augments(self) -> bool:
        """Whether training samples are augmented: [augmentor] enabled, else the reference's two switches."""
        if self.augmentor.enabled is not None:
            return self.augmentor.enabled
        return self.model.generator and self.generator.augmentation


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Config.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
"""Section name to its settings' class."""
