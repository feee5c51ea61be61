"""Slides on a cluster: the bytes of one process, whichever process is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tests.fakes import RecordingProgress

distributed = pytest.importorskip("distributed")

from glomtile.cluster import Cluster, connect, run_tasks, worker_threads  # noqa: E402
from glomtile.errors import ClusterError, InputError, ModelError, UsageError  # noqa: E402
from glomtile.inference.batch import (  # noqa: E402  # noqa: E402
    KINDS,
    SegmentOptions,
    SegmentResult,
    segment,
    segment_on_worker,
)
from glomtile.inference.image import TilingSettings  # noqa: E402
from glomtile.system import cores  # noqa: E402
from glomtile.types import SILENT, Progress  # noqa: E402

PATIENCE_S = 120.0
HEIGHTS = {"large": 2048, "b": 400, "c": 400}


def write_slide(path: Path, seed: int, height: int) -> Path:
    """Write stained noise on glass, as a tiled OME-TIFF."""
    rng = np.random.default_rng(seed)
    image = np.full((height, 400, 3), 243, np.uint8)
    noise = rng.integers(60, 240, (height // 50, 6, 3)).repeat(50, 0).repeat(50, 1)
    image[: noise.shape[0], 50:350] = noise
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", ome=True, compression="deflate",
        metadata={"axes": "YXS", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One slide of four bands of rows, which can be killed between them, and two small ones."""
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide(folder / f"{name}.ome.tif", n, h) for n, (name, h) in enumerate(HEIGHTS.items())]


@pytest.fixture(scope="module")
def options(exported_model: Path) -> SegmentOptions:
    return SegmentOptions(exported_model, settings=TilingSettings(window_px=128), runtime="openvino")


@pytest.fixture(scope="module")
def expected(
    slides: list[Path], options: SegmentOptions, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Outputs of this process alone."""
    out = tmp_path_factory.mktemp("alone")
    assert len(segment(slides, out, options).done) == len(slides)
    made = outputs(out)
    assert len(json.loads(made["geojson/large.geojson"])["features"]) > 0
    return made


def outputs(out: Path) -> dict[str, bytes]:
    files = (path for kind in KINDS if (out / kind).is_dir() for path in (out / kind).iterdir())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def assert_done_once(out: Path, slides: list[Path], expected: dict[str, bytes]) -> None:
    """Check for the bytes of one process, each slide once in the summary, and no unfinished rows."""
    assert outputs(out) == expected
    with (out / "summary.csv").open(encoding="utf-8", newline="") as table:
        assert sorted(row["image"] for row in csv.DictReader(table)) == sorted(HEIGHTS)
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert sorted([*run["done"], *run["skipped"]]) == sorted(map(str, slides))
    assert run["failed"] == {}
    assert {path.suffix for path in (out / ".glomtile").iterdir()} <= {".json", ".lock", ""}


@contextmanager
def in_background(work: Callable[[], SegmentResult]) -> Iterator[Future[SegmentResult]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def until(happened: Callable[[], object], run: Future[SegmentResult] | None = None) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not happened():
        if run is not None and run.done():
            run.result()
        assert time.monotonic() < ends, "expected it to happen meanwhile"
        time.sleep(0.005)


def process_amid(out: Path, slide: str) -> int | None:
    """Return the process that holds a slide of which some rows are done and some are not."""
    private = out / ".glomtile"
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        state = json.loads((private / f"{slide}.work" / "state.json").read_text("utf-8"))
        if 0 < state["rows"][0] < HEIGHTS[slide]:
            return int(json.loads((private / f"{slide}.lock").read_text("utf-8"))["process"])
    return None


def test_a_worker_killed_amid_a_slide_changes_nothing(
    slides: list[Path], options: SegmentOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Two workers, a broken slide beside good ones."""
    out, progress = tmp_path / "out", RecordingProgress()
    (broken := tmp_path / "broken.svs").write_bytes(b"II*\0")
    work = partial(segment, [broken, *slides], out, options, cluster=Cluster(workers=2), progress=progress)
    with in_background(work) as run:
        until(lambda: process_amid(out, "large"), run)
        process = process_amid(out, "large")
        assert process is not None, "all bands were done between two looks"
        assert process != os.getpid()
        os.kill(process, signal.SIGKILL)
        result = run.result(PATIENCE_S)
    assert set(result.done) == set(slides)
    assert [path for path, _ in result.failed] == [broken]
    assert progress.notes[0] == "4 slides for 2 workers on this machine"
    assert f"{slides[0]}: the worker died; trying again" in progress.notes
    assert outputs(out) == expected


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with one worker, which outlive their clients."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0,
        silence_logs=50,
    ) as local:  # fmt: skip
        yield local.scheduler_address


def test_a_killed_client_is_continued_by_the_next(
    slides: list[Path], options: SegmentOptions, expected: dict[str, bytes], tmp_path: Path, scheduler: str
) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-m", "glomtile", "segment", "-m", str(options.model), "-o", str(out)]
    line += ["--window", "128", "--runtime", "openvino", "--scheduler", scheduler, *map(str, slides)]
    client = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: process_amid(out, "large") or client.poll() is not None)
    assert client.poll() is None, client.stderr.read() if client.stderr else ""
    client.send_signal(signal.SIGKILL)
    client.communicate()
    assert segment(slides, out, options, cluster=Cluster(scheduler)).failed == ()
    assert_done_once(out, slides, expected)


def step(seconds: float, progress: Progress, *, folder: Path) -> None:
    """Work in steps, and write down how it ends."""
    (folder / "started").touch()
    try:
        for _ in range(round(seconds / 0.05)):
            time.sleep(0.05)
            progress.advance(1)
    except BaseException as problem:
        (folder / "ended").write_text(type(problem).__name__)
        raise


def test_a_task_whose_client_has_gone_stops_at_its_next_step(tmp_path: Path, scheduler: str) -> None:
    with connect(Cluster(scheduler)) as client, ThreadPoolExecutor(1) as pool:
        pool.submit(next, run_tasks(client, partial(step, folder=tmp_path), [PATIENCE_S], SILENT))
        until((tmp_path / "started").exists)
        client.close()
        until(lambda: (tmp_path / "ended").exists() and (tmp_path / "ended").read_text())
    assert (tmp_path / "ended").read_text() == "RunCancelledError"


def test_a_worker_with_another_model_is_refused(
    options: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glomtile.cluster.worker_threads", lambda: 1)
    (tmp_path / ".glomtile").mkdir()
    with pytest.raises(
        ModelError, match="model and runtime of the client on every worker, got other: model, card"
    ):
        segment_on_worker(tmp_path, options, '{"model": "other"}', None, tmp_path / "a.svs", SILENT)
    monkeypatch.setattr("glomtile.inference.batch._SHARED_WITHIN_S", 0.0)
    with pytest.raises(UsageError, match="a folder that client and workers share"):
        segment_on_worker(tmp_path / "unseen", options, "{}", None, tmp_path / "a.svs", SILENT)


def do(name: str, progress: Progress, *, folder: Path) -> tuple[str, int]:
    """Do what the name of a task asks for, in a worker."""
    with (folder / name).open("a") as file:
        file.write("started\n")
    attempts = (folder / name).read_text().count("started")
    if name == "dies" or (name == "dies once" and attempts == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "breaks":
        raise ZeroDivisionError(name)
    if name == "refuses":
        raise InputError(name, "expected another, got this")
    progress.note(f"{name}: attempt {attempts}")
    progress.warn(f"{name}: done")
    return name, worker_threads()


def test_tasks_are_tried_twice_and_failures_are_listed(tmp_path: Path) -> None:
    progress, names = RecordingProgress(), ["dies", "a", "breaks", "dies once", "refuses", "b"]
    with connect(Cluster(workers=2)) as client:
        assert client.scheduler.address.startswith("tls://")
        results = dict(run_tasks(client, partial(do, folder=tmp_path), iter(names), progress))
    assert set(results) == set(names)
    threads = max(1, cores() // 2)
    assert [results[name] for name in ("a", "b", "dies once")] == [
        (name, threads) for name in ("a", "b", "dies once")
    ]
    assert isinstance(results["dies"], ClusterError)
    assert "within 2 attempts, got: the worker died" in str(results["dies"])
    assert isinstance(results["breaks"], ClusterError)
    assert "ZeroDivisionError: breaks" in str(results["breaks"])
    assert isinstance(results["refuses"], InputError)
    assert (tmp_path / "refuses").read_text() == "started\n"
    assert {"a: attempt 1", "b: attempt 1", "dies once: attempt 2"} <= set(progress.notes)
    assert set(progress.warnings) == {"a: done", "b: done", "dies once: done"}


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1"])
def test_an_address_without_a_scheduler_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glomtile.cluster._CONNECT_S", 0.5)
    with pytest.raises(UsageError, match="--scheduler"), connect(Cluster(address)):
        pass
