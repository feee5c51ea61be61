"""Slides and results in buckets of an S3 server: the bytes of local files; a failure costs one slide."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'glomtile[remote]'")
server = pytest.importorskip("moto.server", reason="needs moto's S3 server: pip install 'moto[s3]' flask")

import fsspec  # noqa: E402
from tests.reliability.test_cluster import HEIGHTS, outputs, write_slide  # noqa: E402

from glomtile.inference import batch  # noqa: E402
from glomtile.inference.batch import SegmentOptions, segment  # noqa: E402
from glomtile.inference.image import TilingSettings  # noqa: E402
from glomtile.io.remote import RemoteFile  # noqa: E402

pytestmark = pytest.mark.slow


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
def options(exported_model: Path) -> SegmentOptions:
    return SegmentOptions(exported_model, settings=TilingSettings(window_px=128), runtime="openvino")


@pytest.fixture(scope="module")
def expected(s3: Any, options: SegmentOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of the slides as files; the slides are put into the bucket."""
    folder, out = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("alone")
    slides = [write_slide(folder / f"{n}.ome.tif", i, HEIGHTS[n]) for i, n in enumerate(HEIGHTS)]
    for path in slides:
        s3.put_file(str(path), f"bucket/study/{path.name}")
    assert len(segment(slides, out, options).done) == len(slides)
    return outputs(out)


def command(model: Path, out: str | Path, *more: str) -> list[str]:
    line = [sys.executable, "-m", "glomtile", "segment", "s3://bucket/study/*.tif", "-o", str(out)]
    return [*line, "-m", str(model), "--window", "128", "--runtime", "openvino", *more]


def in_bucket(s3: Any, name: str) -> dict[str, bytes]:
    root = f"bucket/{name}/"
    s3.invalidate_cache()
    return {path.removeprefix(root): s3.cat_file(path) for path in s3.find(root)}


def test_results_are_put_into_a_bucket_and_a_run_elsewhere_continues(
    expected: dict[str, bytes], s3: Any, options: SegmentOptions, tmp_path: Path
) -> None:
    assert options.model is not None
    address = "s3://bucket/results"
    line = command(options.model, address, "--scratch", str(tmp_path / "here"))
    line[4] = "s3://bucket/study/b.ome.tif"
    subprocess.run(line, capture_output=True, check=True)
    line = command(options.model, address, "--scratch", str(tmp_path / "elsewhere"))
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert f"{address}/masks\n" in second.stdout
    assert f"{address}/report.html\n" in second.stdout
    made = in_bucket(s3, "results")
    own = {"summary.csv", "run.json", "report.html", *(f".glomtile/{name}.json" for name in HEIGHTS)}
    assert set(made) == {*expected, *own}
    assert {name: made[name] for name in expected} == expected
    run = json.loads(made["run.json"])
    assert run["skipped"] == ["s3://bucket/study/b.ome.tif"]
    assert len(run["done"]) == 2
    assert len(made["summary.csv"].decode().splitlines()) == 4


def test_missing_buckets_and_keys_are_listed_and_the_others_are_done(
    expected: dict[str, bytes], options: SegmentOptions, tmp_path: Path
) -> None:
    assert options.model is not None
    more = ["s3://nobucket/*.svs", "s3://bucket/study/gone.svs", "sss://bucket/a.svs"]
    line = command(options.model, tmp_path / "out", *more)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "failed: 3" in done.stderr
    assert all(f"  {address}: expected " in done.stderr for address in more)
    assert outputs(tmp_path / "out") == expected


def test_a_store_that_fails_costs_the_slides_that_were_not_fetched(
    expected: dict[str, bytes],
    s3: Any,
    options: SegmentOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch, names = batch.fetched, list[str]()

    def fetch_one(file: RemoteFile, *rest: Any) -> Any:
        if names:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            s3.clear_instance_cache()
        names.append(file.name)
        return fetch(file, *rest)

    monkeypatch.setattr(batch, "fetched", fetch_one)
    result = segment(["s3://bucket/study"], tmp_path / "out", options)
    assert [str(source) for source in result.done] == ["s3://bucket/study/b.ome.tif"]
    assert len(result.failed) == 2
    assert all("no connection" in why for _, why in result.failed)
    s3.clear_instance_cache()


def test_a_bucket_that_does_not_exist_ends_the_run_at_once(
    expected: dict[str, bytes], options: SegmentOptions, tmp_path: Path
) -> None:
    assert options.model is not None
    line = command(options.model, "s3://nobucket/out", "--scratch", str(tmp_path))
    refused = subprocess.run(line, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("error: s3://nobucket/out: expected ")
