"""Slides and results in buckets of an S3 server: the bytes of local files; a failure costs one slide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'glomtile[remote]'")
server = pytest.importorskip("moto.server", reason="needs moto's S3 server: pip install 'moto[s3]' flask")

import fsspec  # noqa: E402
from tests.reliability.test_cluster import HEIGHTS, outputs, write_slide  # noqa: E402

from glomtile.cli.main import run  # noqa: E402
from glomtile.inference import batch  # noqa: E402
from glomtile.inference.batch import SegmentOptions, segment  # noqa: E402
from glomtile.inference.image import TilingSettings  # noqa: E402
from glomtile.io.remote import RemoteFile  # noqa: E402

pytestmark = pytest.mark.slow
SLIDES = "s3://bucket/study/*.tif"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A store on loopback, known to this process."""
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


def command(options: SegmentOptions, source: str, out: str | Path, *more: str) -> int:
    line = ["segment", source, "-o", str(out), "-m", str(options.model), "--window", "128"]
    return run([*line, "--runtime", "openvino", *more])


def in_bucket(s3: Any, name: str) -> dict[str, bytes]:
    root = f"bucket/{name}/"
    s3.invalidate_cache()
    return {path.removeprefix(root): s3.cat_file(path) for path in s3.find(root)}


def test_results_are_put_into_a_bucket_and_a_run_elsewhere_continues(
    expected: dict[str, bytes],
    s3: Any,
    options: SegmentOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = "s3://bucket/results"
    one = "s3://bucket/study/b.ome.tif"
    assert command(options, one, address, "--scratch", str(tmp_path / "here")) == 0
    capsys.readouterr()
    assert command(options, SLIDES, address, "--scratch", str(tmp_path / "elsewhere")) == 0
    printed = capsys.readouterr().out
    assert f"{address}/masks\n" in printed
    assert f"{address}/report.html\n" in printed
    made = in_bucket(s3, "results")
    own = {"summary.csv", "run.json", "report.html", *(f".glomtile/{name}.json" for name in HEIGHTS)}
    assert set(made) == {*expected, *own}
    assert {name: made[name] for name in expected} == expected
    record = json.loads(made["run.json"])
    assert record["skipped"] == [one]
    assert len(record["done"]) == 2
    assert len(made["summary.csv"].decode().splitlines()) == 4


def test_missing_buckets_and_keys_are_listed_and_the_others_are_done(
    expected: dict[str, bytes],
    options: SegmentOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = ["s3://nobucket/*.svs", "s3://bucket/study/gone.svs", "sss://bucket/a.svs"]
    assert command(options, SLIDES, tmp_path / "out", *missing) == 1
    printed = capsys.readouterr().err
    assert "failed: 3" in printed
    assert all(f"  {address}: expected " in printed for address in missing)
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
    expected: dict[str, bytes],
    options: SegmentOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(options, SLIDES, "s3://nobucket/out", "--scratch", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: s3://nobucket/out: expected ")
