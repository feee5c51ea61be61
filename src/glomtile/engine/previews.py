"""What the network says of a few images after each epoch, drawn whole or tiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glomtile.config.schema import Config
from glomtile.core.palette import Palette
from glomtile.engine.callbacks import EpochEnd
from glomtile.engine.pictures import segment_image, segment_whole
from glomtile.engine.predictor import Asking, KerasPredictor
from glomtile.engine.sources import sample_size, working_scale
from glomtile.errors import GlomtileError
from glomtile.files.images import list_images, read_image
from glomtile.files.masks import write_mask
from glomtile.nets.registry import Geometry
from glomtile.types import Progress, UInt8


class Previews:
    """Writes ``Epoch_<n>_<image>.png`` for the first images of a folder (reference §4).

    Tiled previews read ``[tiledinfer] images_dir``, whole ones ``[infer] images_dir`` (reference §6.10).
    The images are decoded once; the network predicts with the weights it was judged with.
    """

    def __init__(
        self, config: Config, geometry: Geometry, palette: Palette, images: Sequence[Path], *, tiled: bool
    ) -> None:
        self._config = config
        self._geometry = geometry
        self._palette = palette
        self._tiled = tiled
        key = "epoch_change_tiled_infer_dir" if tiled else "epoch_change_infer_dir"
        self.folder = config.resolve(getattr(config.train, key))
        self._images: list[tuple[str, UInt8, float | None]] = []
        for path in images:
            scale = working_scale(config, path)
            self._images.append((path.stem, read_image(path), scale[0] if scale else None))
        self._predictor: KerasPredictor | None = None

    def __call__(self, end: EpochEnd) -> None:
        predictor = self._predictor = self._predictor or self._predict_with(end.network)
        self.folder.mkdir(parents=True, exist_ok=True)
        for stem, image, image_mpp in self._images:
            if self._tiled:
                labels = segment_image(image, predictor, self._config.tiledinfer, image_mpp).labels
            else:
                labels = segment_whole(image, predictor, sample_size(self._config))
            write_mask(self.folder / f"Epoch_{end.number}_{stem}.png", labels, self._palette)

    def _predict_with(self, network: Any) -> KerasPredictor:
        asking = Asking(color_order=self._config.image.color_order)
        return KerasPredictor(network, self._geometry, self._config.model.mpp, asking)


def asked_previews(
    config: Config, geometry: Geometry, palette: Palette, progress: Progress
) -> list[Previews]:
    """The previews a config asks for; a folder that cannot be read costs its previews and a warning."""
    asked = (
        (config.train.epoch_change_infer, "infer", False),
        (config.train.epoch_change_tiled_infer, "tiledinfer", True),
    )
    found = []
    for wanted, section, tiled in asked:
        folder = getattr(config, section).images_dir
        if not wanted or folder is None:
            continue
        try:
            images = list_images(config.resolve(folder))[: config.train.num_infer_images]
            found.append(Previews(config, geometry, palette, images, tiled=tiled))
        except GlomtileError as problem:
            progress.warn(f"no {'tiled' if tiled else 'whole'} previews: {problem}")
    return found
