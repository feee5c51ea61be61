"""Description of a network: layers, work, memory and inference windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from glomtile.config.schema import Config
from glomtile.errors import InputError, UsageError
from glomtile.inference.image import TilingSettings, tile_plan
from glomtile.inference.predictor import KerasPredictor
from glomtile.io.atomic import write_text
from glomtile.io.images import image_mpp, image_size, list_images
from glomtile.networks.profiling import LayerCost, layer_costs, training_bytes
from glomtile.networks.registry import Geometry, build_model, geometry
from glomtile.tiling.grid import round_up

_SLOTS = {"Adam": 2, "AdamW": 2, "SGD": 1}


@dataclass(frozen=True)
class InspectResult:
    """Description of a network and its file.

    Attributes
    ----------
    summary : Path
        ``summary.txt``.
    parameters : int
    tile_gflop : float
        Work of one forward pass of a tile of `image_height` x `image_width`, in 1e9 multiplications and
        additions.
    training_mb, window_mb : float
        Memory of a training step and of one batch of windows, in MiB, both without what the backend keeps.
    plan : str
        The windows of tiled inference in words.
    """

    summary: Path
    parameters: int
    tile_gflop: float
    training_mb: float
    window_mb: float
    plan: str

    @property
    def paths(self) -> tuple[Path]:
        """Files that were written."""
        return (self.summary,)


def inspect(config: Config, out: Path | None = None) -> InspectResult:
    """Describe the network of a config in ``summary.txt``.

    Parameters
    ----------
    config : Config
    out : Path, optional
        Its folder; the config's own when left out.

    Raises
    ------
    ConfigError
        When the network cannot be built.
    """
    settings, train = config.model, config.train
    folder = config.base_dir if out is None else out
    known = geometry(settings)
    model = build_model(settings, precision=train.precision, seed=train.seed)
    tile = (
        round_up(settings.image_height, known.stride_px),
        round_up(settings.image_width, known.stride_px),
    )
    costs = layer_costs(model, tile)
    gflop = sum(cost.flop for cost in costs) / 1e9
    slots = _SLOTS[settings.optimizer] + (train.ema_decay > 0)
    training_mb = training_bytes(model, tile, train.batch_size, slots) / 2**20
    plan, window_mb = _windows(config, model, known, gflop / (tile[0] * tile[1]))

    facts = {
        "network": f"{model.name}, {model.count_params():,} parameters",
        "input": f"{tile[0]} x {tile[1]} x {settings.image_channels} in training; any multiple of "
        f"{known.stride_px} px otherwise",
        "context": _context(known),
        "work": f"{gflop:,.4g} GFLOP for one such tile, forward",
        "training": f"about {training_mb:,.0f} MiB for a batch of {train.batch_size}: all activations, "
        "weights, gradients, optimizer",
        "inference": f"about {window_mb:,.0f} MiB for a batch of {config.tiledinfer.batch_size} of the tile "
        "plan's windows: activations, weights",
        "tile plan": plan,
    }
    wide = max(map(len, facts))
    text = "\n".join(f"{name:<{wide}}  {fact}" for name, fact in facts.items())
    summary = folder / "summary.txt"
    write_text(summary, f"{text}\n\n{_table(costs)}\n")
    return InspectResult(summary, model.count_params(), gflop, training_mb, window_mb, plan)


def _context(known: Geometry) -> str:
    text = f"{known.context_px} px per side around each pixel"
    return text if known.local else f"{text}, its normalisation the whole window"


def _windows(config: Config, model: keras.Model, known: Geometry, gflop_per_px: float) -> tuple[str, float]:
    """Describe the windows of tiled inference, and estimate the memory in MiB of a batch of them."""
    if config.model.image_channels != 3:
        return "none: images are read with 3 channels", 0.0
    predictor = KerasPredictor(model, known, config.model.mpp)
    size, source = _example_image(config)
    try:
        plan = tile_plan(size, predictor, TilingSettings.of_config(config))
    except UsageError as error:
        return f"none: {error}", 0.0
    pixels = plan.window_px[0] * plan.window_px[1]
    memory = config.tiledinfer.batch_size * pixels * predictor.bytes_per_px + 4 * model.count_params()
    work = gflop_per_px * pixels * len(plan)
    return f"{source}: {plan}; {work:,.4g} GFLOP", memory / 2**20


def _example_image(config: Config) -> tuple[tuple[int, int], str]:
    """Return size at the network's scale and name of the first image of [tiledinfer], else of four tiles."""
    folder = config.tiledinfer.images_dir
    try:
        first = list_images(config.resolve(folder))[0] if folder is not None else None
    except InputError:
        first = None
    if first is None:
        return (2 * config.model.image_height, 2 * config.model.image_width), "for example"
    height, width = image_size(first)
    mpp = image_mpp(first) or config.dataset.image_mpp
    if mpp is None or config.model.mpp is None:
        return (height, width), first.name
    scale = mpp / config.model.mpp
    return (
        max(1, round(height * scale)),
        max(1, round(width * scale)),
    ), f"{first.name} at the network's scale"


def _table(costs: list[LayerCost]) -> str:
    """Format one line per layer: kind, output for a tile, cost, inputs."""
    rows = [("layer", "kind", "output", "parameters", "GFLOP", "from")]
    for cost in costs:
        answer = " x ".join(map(str, cost.shape))
        work = f"{cost.flop / 1e9:.3f}" if cost.flop else "-"
        rows.append((cost.name, cost.kind, answer, f"{cost.parameters:,}", work, ", ".join(cost.sources)))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {3, 4}
    return "\n".join(
        "  ".join(f"{cell:{'>' if i in right else '<'}{wide[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    )
