"""Descriptions of the installation, of slides and of networks."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import InputError, UsageError

if TYPE_CHECKING:
    import keras

    from glomtile.config.schema import Config
    from glomtile.networks.profiling import LayerCost
    from glomtile.networks.registry import Geometry

PACKAGES = (
    "glomtile", "numpy", "opencv-python-headless", "matplotlib", "openvino", "keras", "tensorflow",
    "tensorflow-cpu", "jax", "torch", "onnx", "onnxruntime",
)  # fmt: skip


def installation_facts() -> dict[str, Any]:
    """Return versions, backend, devices and formats of this installation."""
    from glomtile.inference.predictor import installed_runtimes
    from glomtile.io.images import IMAGE_SUFFIXES
    from glomtile.models.folder import bundled_folder
    from glomtile.system import cores

    backend, devices = _backend()
    images = sorted(IMAGE_SUFFIXES)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "backend": backend,
        "devices": devices,
        "runtimes": installed_runtimes(),
        "bundled": bundled_folder(),
        "image_formats": images,
        "mask_formats": [*images, ".npz"],
    }


def describe_installation(facts: Mapping[str, Any]) -> str:
    """Format the facts of an installation, one a line."""
    rows = {
        "python": facts["python"],
        **facts["packages"],
        "system": f"{facts['system']}, {facts['cores']} cores",
        "backend": facts["backend"] or "none: pip install 'glomtile[cpu]' to train",
        "devices": ", ".join(facts["devices"]) or "none",
        "runtimes": ", ".join(facts["runtimes"]) or "none: pip install openvino to segment",
        "bundled model": facts["bundled"] or "none: segment needs -m MODEL",
        "images": " ".join(facts["image_formats"]),
        "masks": " ".join(facts["mask_formats"]),
    }
    return "\n".join(_aligned(rows))


def slide_facts(path: Path) -> dict[str, Any]:
    """Return kind, sizes and scale of a slide or image.

    Raises
    ------
    InputError
        The file is missing, damaged or of another format.
    """
    from glomtile.slides.slide import open_slide

    with open_slide(path) as slide:
        return {
            "path": path,
            "kind": slide.kind,
            "size_px": slide.size_px,
            "levels": [(level.size_px, max(level.downsample)) for level in slide.levels],
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
        }


def describe_slide(facts: Mapping[str, Any]) -> str:
    """Format the facts of a slide, one a line, below its path."""
    height, width = facts["size_px"]
    scale = "not in the file: pass --mpp to segment, 20x is usually about 0.5, 40x about 0.25"
    if facts["mpp"] is not None:
        scale = f"{facts['mpp']:.4g} ({facts['mpp_source']})"
    rows = {"kind": facts["kind"], "size": f"{width:,} x {height:,} px", "µm per pixel": scale}
    for number, ((high, wide), zoom) in enumerate(facts["levels"]):
        rows[f"level {number}"] = f"{wide:,} x {high:,} px, 1/{zoom:.4g}"
    return "\n".join([str(facts["path"]), *(f"  {line}" for line in _aligned(rows))])


def _aligned(rows: Mapping[str, object]) -> list[str]:
    width = max(map(len, rows))
    return [f"{name:<{width}}  {value}" for name, value in rows.items()]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend() -> tuple[str | None, list[str]]:
    try:
        import keras
    except ImportError:
        return None, []
    name = keras.backend.backend()
    if name != "torch":
        return name, keras.distribution.list_devices()
    import torch  # Keras cannot list this backend's devices

    gpus = range(torch.cuda.device_count())
    return name, ["cpu:0", *(f"cuda:{number} {torch.cuda.get_device_name(number)}" for number in gpus)]


def network_facts() -> list[dict[str, Any]]:
    """Return cost, geometry and source of weights of every network, with each encoder where it has one.

    Returns
    -------
    list of dict
        At default settings with two classes: `model`, `encoder` (``None`` without), `parameters`,
        `gflop_per_mpx` (1e9 multiplications and additions of convolutions for a million pixels), `stride_px`,
        `context_px`, `local` (tiles whose margins cover the context equal the whole), `weights` (a package)
        and `licence`.
    """
    from glomtile.config.schema import BUILT_NETWORKS, ENCODER_NAMES, ENCODER_NETWORKS, ModelSettings
    from glomtile.networks.encoders import encoder
    from glomtile.networks.profiling import layer_costs
    from glomtile.networks.registry import build_model, geometry

    side = 1024
    facts = []
    for name in BUILT_NETWORKS:
        for chosen in ENCODER_NAMES if name in ENCODER_NETWORKS else (None,):
            settings = ModelSettings(model=name, encoder=chosen or ENCODER_NAMES[0])
            network, known = build_model(settings), geometry(settings)
            flop = sum(cost.flop for cost in layer_costs(network, (side, side)))
            facts.append(
                {
                    "model": name,
                    "encoder": chosen,
                    "parameters": network.count_params(),
                    "gflop_per_mpx": round(flop / side**2 / 1e3, 1),
                    "stride_px": known.stride_px,
                    "context_px": known.context_px,
                    "local": known.local,
                    "weights": encoder(chosen).package if chosen else None,
                    "licence": encoder(chosen).licence if chosen else None,
                }
            )
    return facts


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
    training_mb : float
        Memory of a training step in MiB, without what the backend keeps.
    plan : str
        The windows of tiled inference in words.
    """

    summary: Path
    parameters: int
    tile_gflop: float
    training_mb: float
    plan: str


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
    from glomtile.io.atomic import write_text
    from glomtile.networks.profiling import layer_costs, training_bytes
    from glomtile.networks.registry import build_model, geometry
    from glomtile.tiling.grid import round_up

    settings, train = config.model, config.train
    known = geometry(settings)
    model = build_model(settings, precision=train.precision, seed=train.seed)
    stride = known.stride_px
    tile = (round_up(settings.image_height, stride), round_up(settings.image_width, stride))
    costs = layer_costs(model, tile)
    gflop = sum(cost.flop for cost in costs) / 1e9
    slots = _SLOTS[settings.optimizer] + (train.ema_decay > 0)
    training_mb = training_bytes(model, tile, train.batch_size, slots) / 2**20
    plan, window_mb = _windows(config, model, known, gflop / (tile[0] * tile[1]))
    context = f"{known.context_px} px per side around each pixel"
    facts = {
        "network": f"{model.name}, {model.count_params():,} parameters",
        "input": f"{tile[0]} x {tile[1]} x {settings.image_channels} in training; any multiple of "
        f"{stride} px otherwise",
        "context": context if known.local else f"{context}, its normalisation the whole window",
        "work": f"{gflop:,.4g} GFLOP for one such tile, forward",
        "training": f"about {training_mb:,.0f} MiB for a batch of {train.batch_size}: all activations, "
        "weights, gradients, optimizer",
        "inference": f"about {window_mb:,.0f} MiB for a batch of {config.tiledinfer.batch_size} of the tile "
        "plan's windows: activations, weights",
        "tile plan": plan,
    }
    summary = (config.base_dir if out is None else out) / "summary.txt"
    write_text(summary, "\n".join([*_aligned(facts), "", _table(costs), ""]))
    return InspectResult(summary, model.count_params(), gflop, training_mb, plan)


def _windows(config: Config, model: keras.Model, known: Geometry, gflop_per_px: float) -> tuple[str, float]:
    """Describe the windows of tiled inference, and estimate the memory in MiB of a batch of them."""
    if config.model.image_channels != 3:
        return "none: images are read with 3 channels", 0.0
    from glomtile.inference.image import TilingSettings, tile_plan
    from glomtile.inference.predictor import KerasPredictor

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
    from glomtile.io.images import image_mpp, image_size, list_images

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
    scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
    return scaled, f"{first.name} at the network's scale"


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
