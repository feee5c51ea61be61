"""Samples from processes are those of threads to the byte, and no process outlives the training."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomtile.config.load import make_config
from glomtile.config.schema import Config
from glomtile.datasets.loading import judging_source, prepared, training_source
from glomtile.errors import InputError, WorkerError
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI
from glomtile.training.processes import SampleProcesses
from glomtile.training.samples import Sample, Source, batches

WITHIN_S = 60.0


def write_dataset(root: Path, count: int, size_px: tuple[int, int] = (56, 72)) -> Path:
    rng = np.random.default_rng(7)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros(size_px, np.uint8)
        labels[8 + i : 28 + i, 20:44] = 1
        write_png(root / "images" / f"{i}.png", rng.integers(0, 255, (*size_px, 3)).astype(np.uint8))
        write_mask(root / "masks" / f"{i}.png", labels, GLOMERULI)
    return root


def config_of(data: Path, **dataset: Any) -> Config:
    """Every augmentation; 32 px."""
    folders = {"images_dir": str(data / "images"), "masks_dir": str(data / "masks")}
    return make_config(
        {
            "model": {"image_width": 32, "image_height": 32, "num_classes": 2},
            "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
            "dataset": {"worker_kind": "processes", **dataset},
            "augmentor": {
                "enabled": True, "free_rotation": True, "scales": (0.8, 1.25), "shrinks": (0.8,),
                "shears": (0.1,), "deformation": True, "distortion": True, "barrdistortion": True,
                "pincdistortion": True, "sharpening": True, "brightening": True, "stain": 0.6,
                "other_dyes": 0.3, "blur": 1.0, "jpeg": (50, 95), "noise": 4.0,
            },
            "train": {"batch_size": 4, **folders}, "valid": folders,
        }
    )  # fmt: skip


def makers_here() -> set[int]:
    """Processes of this one that make samples."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "processes import serve" in " ".join(child.cmdline())}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def both_ways(data: Path) -> Iterator[list[tuple[Source, Source]]]:
    """Tiles, crops, weighted crops and validation's windows, each here and in the same two processes."""
    tiles = config_of(data)
    crops = config_of(data, sampling="crops", samples_per_epoch=11, edge_share=0.3)
    weighted = config_of(data, sampling="crops", samples_per_epoch=9, image_weights={"0": 3.0, "1": 0.0})
    sources = [training_source(c) for c in (tiles, crops, weighted)] + [judging_source(crops, "valid")]
    with SampleProcesses(sources, 2) as elsewhere:
        yield list(zip(sources, elsewhere, strict=True))


def bytes_of(source: Source, batch_size: int, epoch: int, **options: int) -> list[tuple[bytes, ...]]:
    made = batches(source, batch_size, epoch, **options)
    return [(images.tobytes(), labels.tobytes(), str(images.shape).encode()) for images, labels in made]


@given(
    which=st.integers(0, 3),
    batch_size=st.integers(1, 12),
    epoch=st.integers(0, 50),
    start=st.integers(0, 4),
    ahead=st.integers(1, 5),
    workers=st.integers(1, 4),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_processes_give_the_bytes_of_threads(
    both_ways: list[tuple[Source, Source]],
    which: int, batch_size: int, epoch: int, start: int, ahead: int, workers: int,
) -> None:  # fmt: skip
    here, there = both_ways[which]
    assert len(here) == len(there)
    expected = bytes_of(here, batch_size, epoch, start=start)
    assert bytes_of(there, batch_size, epoch, start=start, ahead=ahead, workers=workers) == expected
    assert bytes_of(there, batch_size, epoch, start=start, workers=0) == expected


class Numbered:
    """Samples that show their epoch and number, made slower the smaller the number; says where it works."""

    def __init__(self, length: int = 24) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def origin(self, epoch: int, index: int) -> str:
        return f"image {index}"

    def sample(self, epoch: int, index: int) -> Sample:
        time.sleep(0.002 * (self._length - index) / self._length)
        print("a library prints this")
        return np.full((2, 2, 3), index % 256, np.uint8), np.full((2, 2), epoch, np.uint8)


class Told(Numbered):
    """Its samples are facts of the process that makes them."""

    def sample(self, epoch: int, index: int) -> Sample:
        import cv2

        facts = [
            any(name in sys.modules for name in ("keras", "tensorflow", "jax", "torch")),
            cv2.getNumThreads(),
            os.environ["OMP_NUM_THREADS"] == "1",
            os.getsid(0) == os.getpid(),
            sys.stdin.read() == "",
        ]
        return np.array(facts, np.uint8)[:, None, None], np.frombuffer(os.getpid().to_bytes(4), np.uint8)


class Deadly(Numbered):
    """Number 5 kills its process, as the system does when memory runs out."""

    def sample(self, epoch: int, index: int) -> Sample:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(epoch, index)


def only_in(pid: int) -> Numbered:
    assert os.getpid() == pid, "not to be had elsewhere"
    return Numbered()


class Homebound(Numbered):
    """Cannot be read in another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return only_in, (os.getpid(),)


class PickyError(Exception):
    """Cannot be made again from what Exception keeps of it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Faulty(Numbered):
    def sample(self, epoch: int, index: int) -> Sample:
        if index == 5:
            raise PickyError("this", "that")
        return super().sample(epoch, index)


def test_each_number_is_drawn_once_an_epoch_and_in_order() -> None:
    with SampleProcesses([Numbered()], 2) as (source,):
        for epoch in range(3):
            drawn = list(batches(source, 5, epoch, workers=2))
            assert np.concatenate([images[:, 0, 0, 0] for images, _ in drawn]).tolist() == list(range(24))
            assert {int(label) for _, labels in drawn for label in labels.ravel()} == {epoch}


def test_the_processes_know_no_keras_and_leave_the_cores_to_the_network() -> None:
    """And they are the same ones in every epoch, out of Ctrl-C's way, and read nothing that is typed."""
    with SampleProcesses([Told()], 2) as (source,):
        drawn = [batch for epoch in range(3) for batch in batches(source, 24, epoch, workers=2)]
        for images, _ in drawn:
            assert np.unique(images[..., 0, 0], axis=0).tolist() == [[0, 1, 1, 1, 1]]
        pids = {label.tobytes() for _, labels in drawn for label in labels}
        assert 1 <= len(pids) <= 2


def test_a_process_that_dies_is_told_with_its_image_and_nothing_hangs() -> None:
    threads, makers = threading.active_count(), makers_here()
    with SampleProcesses([Deadly()], 2) as (source,):
        with pytest.raises(
            WorkerError, match=r"^image 5: expected sample 6 of 24 .* killed by SIGKILL"
        ) as told:
            list(batches(source, 4, 0, workers=2))
        assert "cache_mb" in str(told.value.hint)
        with pytest.raises(WorkerError, match="image 5"):  # the first loss explains what follows
            list(batches(source, 4, 1, workers=2))
    assert threading.active_count() == threads
    assert makers_here() == makers


def test_a_process_that_cannot_begin_says_why_and_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        SampleProcesses([Homebound()], 1) as (source,),
        pytest.raises(WorkerError, match=r"^image 0: .* ended with exit code 1"),
    ):
        list(batches(source, 4, 0, workers=1))
    assert "not to be had elsewhere" in capfd.readouterr().err


def test_a_damaged_image_is_told_as_threads_tell_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 4)
    picture = tmp_path / "data/images/2.png"
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    config = config_of(tmp_path / "data")
    source = training_source(config)
    with pytest.raises(InputError) as expected:
        list(batches(source, 2, 0))
    assert str(picture) in str(expected.value)
    with prepared(config, [source]) as (elsewhere,):
        with pytest.raises(InputError) as told:
            list(batches(elsewhere, 2, 0))
        assert str(told.value) == str(expected.value)
        assert "read_pair" in str(told.value.__cause__)  # the traceback of there
        whole = [i for i in range(4) if not elsewhere.origin(0, i).endswith("2.png")]
        assert len(whole) == 3
        assert elsewhere.sample(0, whole[0])[0].shape == (32, 32, 3)  # the process lives


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    with (
        SampleProcesses([Faulty()], 1) as (source,),
        pytest.raises(RuntimeError, match="PickyError: this and that"),
    ):
        list(batches(source, 4, 0, workers=1))


def test_the_cache_is_shared_out_and_not_sent(data: Path) -> None:
    source = training_source(config_of(data, cache_mb=64, workers=4))
    source.sample(0, 0)
    assert source.decoded.held_bytes > 0
    with SampleProcesses([source], 1) as (elsewhere,):
        assert elsewhere.sample(0, 0)[0].shape == (32, 32, 3)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.decoded.held_bytes == 0
    assert copy.decoded._cap == 16 * 2**20
    assert training_source(config_of(data, cache_mb=64, worker_kind="threads")).decoded._cap == 64 * 2**20


def test_without_workers_there_are_no_processes(data: Path) -> None:
    config = config_of(data, workers=0)
    source, makers = training_source(config), makers_here()
    with prepared(config, [source]) as (same,):
        assert same is source
        assert makers_here() == makers
    assert (
        "workers = 0" in {f"{f.section}.{f.key}": f.message for f in config.findings}["dataset.worker_kind"]
    )


# --- however training ends ------------------------------------------------------------------------------

SCRIPT = """
import signal, sys, time
import psutil
from glomtile.training.samples import batches
from glomtile.training.processes import SampleProcesses
from tests.training.test_processes import Numbered

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
with SampleProcesses([Numbered(10_000)], 2) as (source,):
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    for number, _ in enumerate(batches(source, 4, 0, workers=2)):
        if number == 3:
            print("under way", flush=True)
        {at_each_batch}
"""


def started(root: Path, at_each_batch: str = "pass") -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A process that has samples made, in a group of its own, and the processes that make them."""
    script = textwrap.dedent(SCRIPT).replace("{at_each_batch}", at_each_batch)
    run = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None
    makers = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
    assert len(makers) == 2
    return run, makers


def assert_none_left(makers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(makers, timeout=WITHIN_S)
    assert [maker for maker in alive if maker.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("under_way", [False, True])
def test_no_process_outlives_a_training_that_is_killed(root: Path, under_way: bool) -> None:
    """Whether it is killed while they begin or while they work."""
    run, makers = started(root)
    if under_way:
        assert run.stdout is not None
        assert run.stdout.readline() == "under way\n"
    run.kill()
    assert_none_left(makers)
    told = run.communicate()[1]
    assert "Traceback" not in told


@pytest.mark.parametrize("under_way", [False, True])
def test_ctrl_c_ends_all_and_only_the_training_tells_of_it(root: Path, under_way: bool) -> None:
    run, makers = started(root)
    if under_way:
        assert run.stdout is not None
        assert run.stdout.readline() == "under way\n"
    os.killpg(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=WITHIN_S)
    assert told.count("Traceback") == 1
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert_none_left(makers)


def test_an_error_of_the_training_ends_them_too(root: Path) -> None:
    run, makers = started(root, "raise ValueError('the loss is no number')")
    _, told = run.communicate(timeout=WITHIN_S)
    assert told.count("Traceback") == 1
    assert told.rstrip().endswith("ValueError: the loss is no number")
    assert_none_left(makers)
