"""Slides and results in buckets of a real S3 server: the bytes of files, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="needs dask.distributed: pip install 'glomtile[cluster]'")
pytest.importorskip("s3fs", reason="needs s3fs: pip install 'glomtile[remote]'")
server = pytest.importorskip("moto.server", reason="needs moto's S3 server: pip install 'moto[s3]' flask")

import fsspec  # noqa: E402
from tests.reliability.test_cluster import (  # noqa: E402
    PATIENCE_S,
    SETTINGS,
    in_background,
    kill_amid,
    outputs,
    until,
    worker_amid,
    write_slide,
)

from glomtile.cluster import Cluster  # noqa: E402
from glomtile.inference import slidejob  # noqa: E402
from glomtile.inference.batch import segment  # noqa: E402
from glomtile.inference.slide_task import SegmentOptions  # noqa: E402
from glomtile.inference.slidebucket import place_of  # noqa: E402
from glomtile.io import remote  # noqa: E402

pytestmark = pytest.mark.slow

HEIGHTS = {"large": 2048, "b": 400, "c": 400}


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A store on loopback, known to this process and those that it starts."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patched.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        yield store
        store.clear_instance_cache()
    running.stop()


@pytest.fixture(scope="module")
def request_(exported_model: Path) -> SegmentOptions:
    return SegmentOptions(exported_model, settings=SETTINGS, runtime="openvino")


@pytest.fixture(scope="module")
def expected(s3: Any, request_: SegmentOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is made of the slides as files; they are put into the bucket."""
    folder, out = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("alone")
    slides = [write_slide(folder / f"{n}.ome.tif", i, HEIGHTS[n]) for i, n in enumerate(HEIGHTS)]
    for path in slides:
        s3.put_file(str(path), f"bucket/study/{path.name}")
    assert len(segment(slides, out, request_).done) == len(slides)
    return outputs(out)


def assert_done(out: Path, expected: dict[str, bytes]) -> None:
    """The bytes of files, no copy of a slide left, every slide once in the record of the run."""
    assert outputs(out) == expected
    assert {path.name for path in (out / ".glomtile").iterdir()} == {"lock", *(f"{n}.json" for n in HEIGHTS)}
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert sorted([*run["done"], *run["skipped"]]) == sorted(
        f"s3://bucket/study/{n}.ome.tif" for n in HEIGHTS
    )
    assert run["failed"] == {}
    origin = run["inputs"]["s3://bucket/study/b.ome.tif"]["origin"]
    assert origin["bytes"] > 0
    assert origin["version"].strip('"')


def in_bucket(s3: Any, name: str) -> dict[str, bytes]:
    root = f"bucket/{name}/"
    s3.invalidate_cache()
    return {path.removeprefix(root): s3.cat_file(path) for path in s3.find(root)}


def assert_all_there(made: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """A folder of results in the bucket: the bytes of one machine, every slide once, and no mark of a run."""
    own = {"summary.csv", "run.json", "report.html", *(f".glomtile/{name}.json" for name in HEIGHTS)}
    assert set(made) == {*expected, *own}
    assert {name: made[name] for name in expected} == expected
    rows = made["summary.csv"].decode().splitlines()[1:]
    assert sorted(row.partition(",")[0] for row in rows) == sorted(HEIGHTS)
    run = json.loads(made["run.json"])
    assert sorted([*run["done"], *run["skipped"]]) == sorted(
        f"s3://bucket/study/{n}.ome.tif" for n in HEIGHTS
    )


def command(model: Path, out: str | Path, *more: str) -> list[str]:
    line = [sys.executable, "-m", "glomtile", "segment", "s3://bucket/study/*.tif", "-o", str(out)]
    return [*line, "-m", str(model), "--window", "128", "--runtime", "openvino", *more]


def test_workers_fetch_their_slides_and_may_be_killed_amid_one(
    expected: dict[str, bytes], request_: SegmentOptions, tmp_path: Path
) -> None:
    out, slides = tmp_path / "out", ["s3://bucket/study"]
    with in_background(lambda: segment(slides, out, request_, cluster=Cluster(workers=2))) as run:
        kill_amid(out, "large", run, but=set())
        assert len(run.result(PATIENCE_S).done) == len(HEIGHTS)
    assert_done(out, expected)


def test_panels_of_one_slide_are_filled_from_copies_of_their_own(
    expected: dict[str, bytes], request_: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slidejob, "PANEL_PX", 512)
    out = tmp_path / "out"
    done = segment(["s3://bucket/study/large.ome.tif"], out, request_, cluster=Cluster(workers=2)).done
    assert len(done) == 1
    assert outputs(out) == {name: made for name, made in expected.items() if "large" in name}
    assert sorted(path.name for path in (out / ".glomtile").iterdir()) == ["large.json", "lock"]


def test_a_run_that_was_killed_goes_on_and_fetches_nothing_twice_that_is_finished(
    expected: dict[str, bytes], request_: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert request_.model is not None
    line = command(request_.model, out)
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: worker_amid(out, "large") or first.poll() is not None)
    assert first.poll() is None, first.stderr.read() if first.stderr else ""
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert (out / ".glomtile" / "large.fetched" / "large.ome.tif").is_file()
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert_done(out, expected)
    monkeypatch.setattr(remote, "_fetch", lambda *_: pytest.fail("a finished slide was fetched"))
    assert len(segment(["s3://bucket/study/"], out, request_).skipped) == len(HEIGHTS)


def test_missing_buckets_and_keys_are_named_and_the_others_are_done(
    expected: dict[str, bytes], request_: SegmentOptions, tmp_path: Path
) -> None:
    assert request_.model is not None
    more = ["s3://nobucket/*.svs", "s3://bucket/study/gone.svs", "sss://bucket/a.svs"]
    line = command(request_.model, tmp_path / "out", *more)
    told = subprocess.run(line, capture_output=True, text=True, check=False)
    assert told.returncode == 1, told.stderr
    assert "failed: 3" in told.stderr
    for address in more:
        assert f"  {address}: expected " in told.stderr
    assert "s3://bucket/study/gone.svs: expected files or a folder, got nothing there" in told.stderr
    assert outputs(tmp_path / "out") == expected


def test_a_store_that_goes_away_costs_the_slides_that_were_not_fetched(
    expected: dict[str, bytes],
    s3: Any,
    request_: SegmentOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch, fetched = remote._fetch, list[str]()

    def fetch_one(file: remote.RemoteFile, *rest: Any) -> None:
        if fetched:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            s3.clear_instance_cache()
        fetched.append(file.name)
        fetch(file, *rest)

    monkeypatch.setattr(remote, "_fetch", fetch_one)
    result = segment(["s3://bucket/study"], tmp_path / "out", request_)
    assert [str(source) for source in result.done] == ["s3://bucket/study/b.ome.tif"]
    assert len(result.failed) == 2
    assert all("is the store reached from here" in why for _, why in result.failed)
    assert all("got no connection: Connection refused" in why for _, why in result.failed)
    s3.clear_instance_cache()


def test_without_credentials_nothing_begins_and_the_line_says_why(
    request_: SegmentOptions, tmp_path: Path, s3: Any
) -> None:
    assert request_.model is not None
    known = {k: v for k, v in os.environ.items() if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    told = subprocess.run(
        command(request_.model, tmp_path / "out"), capture_output=True, text=True, check=False,
        env={**known, "AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "none"},
    )  # fmt: skip
    assert told.returncode == 1, told.stderr
    assert (
        "s3://bucket/study/*.tif: expected files or a folder, got: Unable to locate credentials"
        in told.stderr
    )


def test_workers_put_results_into_a_bucket_and_may_be_killed_amid_a_slide(
    expected: dict[str, bytes], s3: Any, request_: SegmentOptions, tmp_path: Path
) -> None:
    there = replace(request_, scratch=tmp_path)
    work = place_of("s3://bucket/workers", tmp_path)
    with in_background(
        lambda: segment(["s3://bucket/study"], "s3://bucket/workers", there, cluster=Cluster(workers=2))
    ) as run:
        kill_amid(work, "large", run, but=set())
        assert len(run.result(PATIENCE_S).done) == len(HEIGHTS)
    assert_all_there(in_bucket(s3, "workers"), expected)
    assert {path.name for path in work.iterdir()} == {".glomtile", "summary.csv", "run.json", "report.html"}


@pytest.mark.parametrize("same_machine", [True, False])
def test_a_run_into_a_bucket_that_was_killed_goes_on_here_and_elsewhere(
    expected: dict[str, bytes], s3: Any, request_: SegmentOptions, tmp_path: Path, same_machine: bool
) -> None:
    assert request_.model is not None
    name = f"killed-{same_machine}"
    address, here = f"s3://bucket/{name}", tmp_path / "here"
    line = command(request_.model, address, "--scratch", str(here))
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # Slides are done in the order of their names, so two are in the bucket by then.
    until(lambda: worker_amid(place_of(address, here), "large") or first.poll() is not None)
    assert first.poll() is None, first.stderr.read() if first.stderr else ""
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    amid = in_bucket(s3, name)
    assert {f".glomtile/{one}.json" for one in ("b", "c")} <= set(amid)
    assert not {one for one in amid if "large" in one or one in ("summary.csv", "run.json", "report.html")}
    if not same_machine:
        line[-1] = str(tmp_path / "elsewhere")
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    made = in_bucket(s3, name)
    assert_all_there(made, expected)
    assert len(json.loads(made["run.json"])["skipped"]) == 2
    assert f"{address}/masks\n" in second.stdout


def test_a_bucket_that_is_not_there_ends_the_run_at_once(
    expected: dict[str, bytes], request_: SegmentOptions, tmp_path: Path
) -> None:
    assert request_.model is not None
    line = command(request_.model, "s3://nobucket/out", "--scratch", str(tmp_path))
    told = subprocess.run(line, capture_output=True, text=True, check=False)
    assert told.returncode == 2, told.stderr
    assert "error: s3://nobucket/out: expected a folder that takes files, got: " in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
