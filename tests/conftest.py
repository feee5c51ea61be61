"""What every test may ask for; set before Keras or Matplotlib is imported anywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
