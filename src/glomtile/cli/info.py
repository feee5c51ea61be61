"""Information about versions, backend, devices and slide formats."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "glomtile",
    "numpy",
    "opencv-python-headless",
    "matplotlib",
    "openvino",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "torch",
    "onnx",
    "onnxruntime",
)


@dataclass(frozen=True)
class Info:
    """Facts of an installation; the command prints its ``str()``.

    Attributes
    ----------
    python, system : str
        Version of Python; operating system and processor.
    cores : int
        Processor cores of this process.
    packages : dict of str to str
        Versions of installed packages.
    backend : str or None
        Backend of Keras, ``None`` without Keras or its backend.
    devices : tuple of str
        Devices of the backend.
    runtimes : tuple of str
        Runtimes of `segment`, the fastest first.
    bundled : Path or None
        Folder of the bundled model.
    image_formats, mask_formats : tuple of str
        Suffixes of readable files.
    """

    python: str
    system: str
    cores: int
    packages: dict[str, str]
    backend: str | None
    devices: tuple[str, ...]
    runtimes: tuple[str, ...]
    bundled: Path | None
    image_formats: tuple[str, ...]
    mask_formats: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("python", self.python), *self.packages.items()]
        rows += [
            ("system", f"{self.system}, {self.cores} cores"),
            ("backend", self.backend or "none: pip install 'glomtile[cpu]' to train"),
            ("devices", ", ".join(self.devices) or "none"),
            ("runtimes", ", ".join(self.runtimes) or "none: pip install openvino to segment"),
            ("bundled model", str(self.bundled or "none: segment needs -m MODEL")),
            ("images", " ".join(self.image_formats)),
            ("masks", " ".join(self.mask_formats)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def info() -> Info:
    """Return versions, backend, devices and formats of this installation."""
    from glomtile.inference.predictor import installed_runtimes
    from glomtile.io.images import IMAGE_SUFFIXES
    from glomtile.models.folder import bundled_folder
    from glomtile.system import cores

    backend, devices = _backend()
    images = tuple(sorted(IMAGE_SUFFIXES))
    return Info(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=cores(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
        backend=backend,
        devices=devices,
        runtimes=installed_runtimes(),
        bundled=bundled_folder(),
        image_formats=images,
        mask_formats=(*images, ".npz"),
    )


@dataclass(frozen=True)
class SlideInfo:
    """Facts of a slide or image; the command prints its ``str()``.

    Attributes
    ----------
    path : Path
    kind : str
        For example ``OpenSlide aperio``.
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    levels : tuple of ((int, int), float)
        Size ``(H, W)`` and full-resolution pixels per pixel, from fine to coarse.
    mpp : float or None
        Micrometres per pixel of the file.
    mpp_source : str or None
        Origin of `mpp`.
    """

    path: Path
    kind: str
    size_px: tuple[int, int]
    levels: tuple[tuple[tuple[int, int], float], ...]
    mpp: float | None
    mpp_source: str | None

    def __str__(self) -> str:
        height, width = self.size_px
        scale = "not in the file: pass --mpp to segment, 20x is usually about 0.5, 40x about 0.25"
        if self.mpp is not None:
            scale = f"{self.mpp:.4g} ({self.mpp_source})"
        rows = [("kind", self.kind), ("size", f"{width:,} x {height:,} px"), ("µm per pixel", scale)]
        for number, ((high, wide), zoom) in enumerate(self.levels):
            rows.append((f"level {number}", f"{wide:,} x {high:,} px, 1/{zoom:.4g}"))
        column = max(len(name) for name, _ in rows)
        return "\n".join([str(self.path), *(f"  {name:<{column}}  {value}" for name, value in rows)])


def slide_info(path: Path) -> SlideInfo:
    """Read the facts of a slide or image.

    Raises
    ------
    InputError
        The file is missing, damaged or of another format.
    """
    from glomtile.slides.slide import open_slide

    with open_slide(path) as slide:
        levels = tuple((level.size_px, max(level.downsample)) for level in slide.levels)
        return SlideInfo(Path(path), slide.kind, slide.size_px, levels, slide.mpp, slide.mpp_source)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend() -> tuple[str | None, tuple[str, ...]]:
    try:
        import keras
    except ImportError:
        return None, ()
    name = keras.backend.backend()
    if name == "torch":
        return name, _torch_devices()
    return name, tuple(keras.distribution.list_devices())


def _torch_devices() -> tuple[str, ...]:
    import torch  # Keras cannot list this backend's devices

    gpus = tuple(
        f"cuda:{number} {torch.cuda.get_device_name(number)}" for number in range(torch.cuda.device_count())
    )
    return ("cpu:0", *gpus)
