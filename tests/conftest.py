"""What every test may ask for; set before Keras or Matplotlib is imported anywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# A test never judges by time: a busy machine is no fault of the code. The benchmarks measure.
hypothesis.settings.register_profile("glomtile", deadline=None)
hypothesis.settings.load_profile("glomtile")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_operation_at_a_time() -> None:
    """What `train` asks of TensorFlow, asked before any test wakes it."""
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.threading.set_inter_op_parallelism_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither find nor leave compiled networks in the cache of who runs them."""
    os.environ["GLOMTILE_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Train without graphs: tracing them takes most of the time of a few steps.

    Their last bits differ from those of a graph. Trainings in other processes are not concerned.
    """
    import keras

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "run_eagerly", property(lambda model: True, lambda model, value: None))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared real data beside the repository; what needs it is skipped elsewhere."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data beside the repository ({SHARED.name}/ of ../shared)")
    return SHARED


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the model folder of a small FlexUNet that nobody trained; `[model]` settings may be given."""
    from glomtile.config.load import make_config
    from glomtile.config.model_card import ModelCard
    from glomtile.models.folder import save_model_folder
    from glomtile.networks.registry import build_model, geometry

    def write(seed: int = 3, card: dict[str, Any] | None = None, **settings: Any) -> Path:
        small = {
            "model": "FlexUNet", "num_classes": 2, "mpp": 2.0, "image_width": 64, "image_height": 64,
            "base_filters": 4, "base_kernels": (3, 3), "num_layers": 3, "norm": "none",
        }  # fmt: skip
        root = tmp_path_factory.mktemp("model")
        config = make_config(
            {"model": small | settings, "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}}}, root
        )
        seen = geometry(config.model)
        facts: dict[str, Any] = {
            "network": config.model, "classes": ModelCard.classes_of(config.palette()),
            "mpp": config.model.mpp, "tile_px": (64, 64), "stride_px": seen.stride_px,
            "context_px": seen.context_px, **(card or {}),
        }  # fmt: skip
        save_model_folder(root / "best", build_model(config.model, seed=seed), ModelCard(**facts))
        return root / "best"

    return write


@pytest.fixture(scope="session")
def exported_model(write_model: Callable[..., Path]) -> Path:
    """Such a folder with the file that segmenting without Keras runs; tests that change it copy it first."""
    from glomtile.inference.export import export

    folder = write_model()
    export(folder)
    return folder


@pytest.fixture
def threshold_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model folder holds a network that takes purple for glomeruli."""
    from tests.fakes import ThresholdNetwork, threshold_card

    from glomtile.inference.predictor import override_settings
    from glomtile.inference.segmenter import Segmenter

    card = threshold_card()

    def load(
        folder: Any,
        settings: Any = None,
        tta: Any = None,
        *,
        threshold: float | None = None,
        runtime: str = "auto",
    ) -> Any:
        return Segmenter(ThresholdNetwork(), override_settings(card, tta, threshold, None), settings)

    monkeypatch.setattr(Segmenter, "load", load)


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in this process's memory."""
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures with a purple disc."""
    import numpy as np
    from skimage.draw import disk

    from glomtile.io.images import write_png

    (tmp_path / "here").mkdir()
    made = []
    for name, row in (("a", 150), ("ein Schnitt [ü]", 120)):
        pixels = np.full((300, 400, 3), (200, 120, 170), np.uint8)
        pixels[disk((row, 220), 40)] = (120, 40, 120)
        made.append(tmp_path / "here" / f"{name}.png")
        write_png(made[-1], pixels)
    return made


@pytest.fixture(scope="session")
def int8_products() -> None:
    """Skip tests of int8 accuracy where the processor cannot add 8-bit products exactly.

    Without VNNI instructions OpenVINO adds pairs of products in 16 bits, which saturate.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "vnni" not in cpuinfo.read_text():
        pytest.skip("this processor has no VNNI instructions: int8 products saturate")
