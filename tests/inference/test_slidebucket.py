"""Results in a bucket are those of a folder; a slide counts when its files are there; one run at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import RecordingProgress

from glomtile.cluster import Cluster
from glomtile.errors import PlaceError, StorageError, UsageError
from glomtile.inference.batch import segment
from glomtile.inference.slide_task import SegmentOptions
from glomtile.inference.slidebucket import place_of
from glomtile.io.remote import RemoteFolder

OUT = "memory://results/out"
WHOLE = {"summary.csv", "run.json", "report.html"}


pytestmark = pytest.mark.usefixtures("threshold_network", "store")


@pytest.fixture
def request_(tmp_path: Path) -> SegmentOptions:
    return SegmentOptions(None, 2.0, zarr=True, scratch=tmp_path / "scratch")


def in_bucket(store: Any) -> dict[str, bytes]:
    return {name.removeprefix("/results/out/"): store.cat_file(name) for name in store.find("/results/out")}


def in_folder(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".glomtile/lock"}


def steady(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those without times in them."""
    return {name: made for name, made in files.items() if name not in WHOLE and ".glomtile" not in name}


def test_the_bucket_holds_what_a_folder_would(
    pictures: list[Path], request_: SegmentOptions, store: Any, tmp_path: Path
) -> None:
    segment(pictures, tmp_path / "out", request_)
    expected = in_folder(tmp_path / "out")
    told = segment(pictures, OUT, request_)
    made = in_bucket(store)
    assert set(made) == set(expected)
    assert steady(made) == steady(expected)
    assert any(name.startswith("zarr/") for name in made)
    assert told.paths == tuple(
        f"{OUT}/{name}"
        for name in ("masks", "geojson", "objects", "overlays", "summary.csv", "run.json", "report.html")
    )
    assert json.loads((told.folder / "run.json").read_text("utf-8"))["done"] == [*map(str, pictures)]
    assert b"<h1>results: out</h1>" in made["report.html"]
    here = {name.partition("/")[0] for name in in_folder(told.folder)}
    assert here == {".glomtile", *WHOLE}


def test_a_run_on_another_machine_knows_what_is_finished(
    pictures: list[Path], request_: SegmentOptions, store: Any, tmp_path: Path
) -> None:
    segment(pictures[:1], OUT, request_)
    before = steady(in_bucket(store))
    elsewhere = SegmentOptions(None, 2.0, zarr=True, scratch=tmp_path / "elsewhere")
    result = segment(pictures, OUT, elsewhere)
    assert (result.skipped, result.done) == ((pictures[0],), (pictures[1],))
    assert segment(pictures, OUT, elsewhere).paths == result.paths
    made = in_bucket(store)
    assert before.items() <= steady(made).items()
    assert len(made["summary.csv"].decode().splitlines()) == 3
    assert made["report.html"].count("ein Schnitt [ü]".encode()) > 0
    assert b"figures could not be read" not in made["report.html"]


def test_a_slide_of_which_a_file_is_missing_is_done_again(
    pictures: list[Path], request_: SegmentOptions, store: Any
) -> None:
    segment(pictures, OUT, request_)
    expected = steady(in_bucket(store))
    store.rm_file("/results/out/masks/a.png")
    for name in store.find("/results/out/zarr/ein Schnitt [ü].ome.zarr"):
        store.rm_file(name)
    result = segment(pictures, OUT, request_)
    assert result.done == tuple(pictures)
    assert steady(in_bucket(store)) == expected


def test_a_note_comes_last(
    pictures: list[Path], request_: SegmentOptions, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide whose upload was cut off is no finished slide."""
    put = RemoteFolder.put

    def lose(self: RemoteFolder, path: Path, name: str) -> None:
        if name == "overlays/a.jpg":
            raise StorageError(self.at(name), "expected a folder that takes files, got: gone")
        put(self, path, name)

    with monkeypatch.context() as patched:
        patched.setattr(RemoteFolder, "put", lose)
        result = segment(pictures, OUT, request_)
    assert result.done == (pictures[1],)
    ((path, why),) = result.failed
    assert path == pictures[0]
    assert why.startswith(f"{OUT}/overlays/a.jpg: expected")
    made = in_bucket(store)
    assert ".glomtile/a.json" not in made
    assert b"\na," not in made["summary.csv"]
    assert segment(pictures, OUT, request_).done == (pictures[0],)


def test_a_run_that_another_took_over_stops_and_says_who(
    pictures: list[Path], request_: SegmentOptions, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = "/results/out/.glomtile/lock"
    other = {"process": 7, "host": "other", "since": "2026-01-01 00:00:00", "token": "t"}
    put = RemoteFolder.put

    def put_and_lose(self: RemoteFolder, path: Path, name: str) -> None:
        put(self, path, name)
        if name == "overlays/a.jpg":
            store.pipe_file(mark, json.dumps(other).encode())

    monkeypatch.setattr(RemoteFolder, "put", put_and_lose)
    with pytest.raises(StorageError, match="got process 7 on other since 2026-01-01"):
        segment(pictures, OUT, request_)
    made = in_bucket(store)
    assert json.loads(made[".glomtile/lock"]) == other
    assert ".glomtile/a.json" in made
    assert not WHOLE & set(made)


def test_a_run_elsewhere_that_did_not_say_its_end_is_told(
    pictures: list[Path], request_: SegmentOptions, store: Any
) -> None:
    store.pipe_file(
        "/results/out/.glomtile/lock", b'{"process": 7, "host": "other", "since": "x", "token": "t"}'
    )
    heard = RecordingProgress()
    assert segment(pictures, OUT, request_, progress=heard).done == tuple(pictures)
    assert any("process 7 on other since x did not end here" in text for text in heard.warnings)
    assert ".glomtile/lock" not in in_bucket(store)


@pytest.mark.parametrize("address", ["sss://bucket/out", "https://host/out"])
def test_a_place_that_takes_no_files_ends_the_run_at_once(
    pictures: list[Path], request_: SegmentOptions, address: str
) -> None:
    with pytest.raises(PlaceError) as told:
        segment(pictures, address, request_)
    assert told.value.where == address
    assert told.value.exit_code == 2


def test_each_bucket_has_a_place_of_its_own_that_is_named_like_it(tmp_path: Path) -> None:
    places = [place_of(f"s3://{name}", tmp_path) for name in ("lab/a/out", "lab/b/a/out", "lab")]
    assert [place.parts[-2:] for place in places] == [("a", "out"), ("a", "out"), ("s3", "lab")]
    assert len(set(places)) == 3
    assert place_of("s3://lab/a/out/", tmp_path) == places[0]


def test_workers_share_no_memory_to_put_results_into(pictures: list[Path], request_: SegmentOptions) -> None:
    with pytest.raises(UsageError, match="expected a folder, or an address that lasts"):
        segment(pictures, OUT, request_, cluster=Cluster(workers=1))
