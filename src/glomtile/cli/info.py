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
    """An installation in facts; ``str()`` of it is what the command prints.

    Attributes
    ----------
    python, system : str
        Version of Python; operating system and processor.
    cores : int
        Processor cores this process may use.
    packages : dict of str to str
        Versions of the packages that matter and are installed.
    backend : str or None
        Keras' backend, ``None`` without Keras or without the backend it is set to use.
    devices : tuple of str
        What the backend can compute on.
    runtimes : tuple of str
        What can compute a network when segmenting, the fastest first.
    bundled : Path or None
        Folder of the model that comes with the package.
    image_formats, mask_formats : tuple of str
        Suffixes that can be read.
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
    """Look at this installation.

    Returns
    -------
    Info
        Versions, backend, devices, formats.
    """
    from glomtile.inference.runtime import installed_runtimes
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
    """A slide or picture in facts; ``str()`` of it is what the command prints.

    Attributes
    ----------
    path : Path
    kind : str
        Of scanner or file, as ``OpenSlide aperio``.
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    levels : tuple of ((int, int), float)
        Size ``(H, W)`` and full-resolution pixels per pixel, from fine to coarse.
    mpp : float or None
        Micrometres per pixel that the file tells, and who says so.
    mpp_source : str or None
    """

    path: Path
    kind: str
    size_px: tuple[int, int]
    levels: tuple[tuple[tuple[int, int], float], ...]
    mpp: float | None
    mpp_source: str | None

    def __str__(self) -> str:
        height, width = self.size_px
        scale = "not told by the file: give segment --mpp, 20x is usually about 0.5, 40x about 0.25"
        if self.mpp is not None:
            scale = f"{self.mpp:.4g} ({self.mpp_source})"
        rows = [("kind", self.kind), ("size", f"{width:,} x {height:,} px"), ("µm per pixel", scale)]
        for number, ((high, wide), zoom) in enumerate(self.levels):
            rows.append((f"level {number}", f"{wide:,} x {high:,} px, 1/{zoom:.4g}"))
        column = max(len(name) for name, _ in rows)
        return "\n".join([str(self.path), *(f"  {name:<{column}}  {value}" for name, value in rows)])


def slide_info(path: Path) -> SlideInfo:
    """What a slide or picture says of itself; tissue and windows are what ``segment --dry-run`` tells.

    Raises
    ------
    InputError
        The file is missing, damaged, or none that can be read.
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
