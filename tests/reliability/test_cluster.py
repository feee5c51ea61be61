"""Slides on a cluster: whatever dies, each is done once and ends with the bytes of one machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile

distributed = pytest.importorskip("distributed")

from glomtile.cluster import Cluster  # noqa: E402
from glomtile.inference import slidejob  # noqa: E402
from glomtile.inference.batch import SegmentResult, segment  # noqa: E402
from glomtile.inference.slide_task import SegmentOptions  # noqa: E402
from glomtile.inference.window_size import TilingSettings  # noqa: E402

KINDS = ("masks", "geojson", "objects", "overlays", "tissue")
SETTINGS = TilingSettings(window_px=128)
PATIENCE_S = 300.0


def write_slide(path: Path, seed: int, height: int) -> Path:
    """Stained noise on glass, as a tiled OME-TIFF."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, 700, 3), 243, np.uint8)
    noise = rng.integers(60, 240, (height // 50, 12, 3)).repeat(50, 0).repeat(50, 1)
    picture[: noise.shape[0], 50:650] = noise
    tifffile.imwrite(
        path, picture, tile=(256, 256), photometric="rgb", ome=True, compression="deflate",
        metadata={"axes": "YXS", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of four bands of rows, which can be killed between them, and two small ones."""
    folder = tmp_path_factory.mktemp("slides")
    heights = {"large": 2048, "b": 400, "c": 400}
    return [write_slide(folder / f"{name}.ome.tif", n, h) for n, (name, h) in enumerate(heights.items())]


@pytest.fixture(scope="module")
def request_(exported_model: Path) -> SegmentOptions:
    return SegmentOptions(exported_model, settings=SETTINGS, runtime="openvino")


@pytest.fixture(scope="module")
def expected(
    slides: list[Path], request_: SegmentOptions, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What this process alone makes of them."""
    out = tmp_path_factory.mktemp("alone")
    assert len(segment(slides, out, request_).done) == len(slides)
    made = outputs(out)
    assert len(json.loads(made["geojson/large.geojson"])["features"]) > 0
    return made


def outputs(out: Path) -> dict[str, bytes]:
    files = (path for kind in KINDS for path in (out / kind).iterdir())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def assert_done_once(out: Path, slides: list[Path], expected: dict[str, bytes]) -> None:
    """The bytes of one machine, every slide in the summary once, and nothing left of the work."""
    assert outputs(out) == expected
    with (out / "summary.csv").open(encoding="utf-8", newline="") as table:
        listed = [row["image"] for row in csv.DictReader(table)]
    assert sorted(listed) == sorted(path.name.removesuffix(".ome.tif") for path in slides)
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert sorted([*run["done"], *run["skipped"]]) == sorted(map(str, slides))
    assert run["failed"] == {}
    left = {path.name for path in (out / ".glomtile").iterdir() if path.suffix != ".json"}
    assert left == {"lock"}


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


def worker_amid(out: Path, slide: str, lock: str | None = None) -> int | None:
    """The process that holds a slide of which some rows are done and some not."""
    own = out / ".glomtile"
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        if 0 < int((own / f"{slide}.work" / "rows-0.txt").read_text("utf-8")) < 2048:
            return int(json.loads((own / (lock or f"{slide}.lock")).read_text("utf-8"))["process"])
    return None


def kill_amid(out: Path, slide: str, run: Future[SegmentResult], *, but: set[int]) -> int:
    """Kill -9 the worker in the middle of a slide, one that was not killed before."""
    until(lambda: (worker_amid(out, slide) or os.getpid()) not in {os.getpid(), *but}, run)
    process = worker_amid(out, slide)
    assert process is not None, "it went on from one band to the end between two looks"
    os.kill(process, signal.SIGKILL)
    return process


def test_workers_killed_amid_a_slide_change_nothing(
    slides: list[Path], request_: SegmentOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", set[int]()
    with in_background(lambda: segment(slides, out, request_, cluster=Cluster(workers=2))) as run:
        for _ in range(2):
            killed.add(kill_amid(out, "large", run, but=killed))
        assert run.result(PATIENCE_S).done == tuple(slides)
    assert len(killed) == 2
    assert_done_once(out, slides, expected)


def test_panels_of_a_wide_slide_on_several_workers_are_one_result(
    slides: list[Path],
    request_: SegmentOptions,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fewer slides than workers: the slide is cut. A worker is killed amid a panel."""
    monkeypatch.setattr(slidejob, "PANEL_PX", 512)
    out = tmp_path / "out"
    with in_background(lambda: segment(slides[:1], out, request_, cluster=Cluster(workers=2))) as run:
        until(lambda: worker_amid(out, "large", "large.0.lock"), run)
        worker = worker_amid(out, "large", "large.0.lock")
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert run.result(PATIENCE_S).done == (slides[0],)
    assert outputs(out) == {name: made for name, made in expected.items() if "large" in name}
    note = json.loads((out / ".glomtile/large.json").read_text("utf-8"))
    assert note["effort"]["windows"] == 0  # all were seen in panels, by others
    assert sorted(path.name for path in (out / ".glomtile").iterdir()) == ["large.json", "lock"]


def command(model: Path, out: Path, scheduler: str, slides: list[Path]) -> list[str]:
    line = [sys.executable, "-m", "glomtile", "segment", "-m", str(model), "-o", str(out)]
    return [*line, "--window", "128", "--runtime", "openvino", "--scheduler", scheduler, *map(str, slides)]


def test_a_client_that_was_killed_is_taken_up_by_the_next_on_the_same_workers(
    slides: list[Path], request_: SegmentOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0,
        silence_logs=50,
    ) as local:  # fmt: skip
        assert request_.model is not None
        line = command(request_.model, out, local.scheduler_address, slides)
        client = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until(lambda: worker_amid(out, "large") or client.poll() is not None)
        assert client.poll() is None, client.stderr.read() if client.stderr else ""
        client.send_signal(signal.SIGKILL)
        client.communicate()
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_done_once(out, slides, expected)


@contextmanager
def processes() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Dask's own programs, and ends them."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments]
        begun.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return begun[-1]

    try:
        yield start
    finally:
        for process in begun:
            process.kill()
            process.wait()


def test_a_scheduler_that_is_started_anew_is_found_again(
    slides: list[Path], request_: SegmentOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    at = ("--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show")
    worker_at = (address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with processes() as start:
        scheduler, worker = start("scheduler", *at), start("worker", *worker_at)
        with in_background(lambda: segment(slides, out, request_, cluster=Cluster(address))) as run:
            until(lambda: worker_amid(out, "large"), run)
            scheduler.kill()
            worker.kill()
            scheduler.wait()
            start("scheduler", *at)
            start("worker", *worker_at)
            assert run.result(PATIENCE_S).done == tuple(slides)
    assert_done_once(out, slides, expected)


class Told:
    """What a person sees of a run, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, title: str, total: int | None = None) -> None:
        self.calls.append(title)

    def advance(self, steps: int = 1, **figures: float | str) -> None: ...

    def note(self, text: str) -> None:
        self.calls.append(text)

    def warn(self, text: str) -> None:
        self.calls.append(text)


def test_bad_slides_and_a_worker_without_the_model_are_each_told(
    slides: list[Path], request_: SegmentOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (broken := tmp_path / "broken.svs").write_bytes(b"II*\0")
    missing, told = tmp_path / "missing.svs", Told()
    done = segment([broken, missing, *slides[1:]], out, request_, cluster=Cluster(workers=1), progress=told)
    assert told.calls[:2] == ["4 slides for 1 worker on this machine", "slides"]
    assert done.done == tuple(slides[1:])
    assert {path for path, _ in done.failed} == {broken, missing}
    assert all(reason.startswith("expected") for _, reason in done.failed)
    assert outputs(out) == {name: made for name, made in expected.items() if "large" not in name}
