"""Inputs of a run, and slides and results at addresses in a store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomtile.cluster import Cluster
from glomtile.errors import PlaceError, StorageError, UsageError
from glomtile.inference import batch
from glomtile.inference.batch import SegmentOptions, attach_report, dry_run, expand_inputs, segment
from glomtile.io.remote import RemoteFolder

pytestmark = pytest.mark.usefixtures("threshold_network")


@pytest.fixture(autouse=True)
def in_the_bucket(store: Any, pictures: list[Path]) -> None:
    """The pictures are in the bucket, too."""
    for path in pictures:
        store.put_file(str(path), f"/study/{path.name}")


REQUEST = SegmentOptions(None, 2.0)


def results(out: Path) -> dict[str, bytes]:
    """What lies in a folder of results, times and names of inputs apart."""
    own = ("run.json", "report.html", "summary.csv")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and ".glomtile" not in path.parts and path.name not in own
    }


def forbid_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "fetched", lambda *_: pytest.fail("a finished slide was fetched"))


def test_results_are_those_of_files_and_name_the_address(pictures: list[Path], tmp_path: Path) -> None:
    here, there = tmp_path / "out-here", tmp_path / "out-there"
    segment(pictures, here, REQUEST)
    told = segment(["memory://study/*.png"], there, REQUEST)
    assert [str(source) for source in told.done] == [
        "memory:///study/a.png", "memory:///study/ein Schnitt [ü].png",
    ]  # fmt: skip
    assert results(there) == results(here)
    assert sorted(path.name for path in (there / ".glomtile").iterdir()) == [
        "a.json", "a.lock", "ein Schnitt [ü].json", "ein Schnitt [ü].lock", "lock",
    ]  # fmt: skip
    note = json.loads((there / ".glomtile/a.json").read_text("utf-8"))
    assert note["input"] == "memory:///study/a.png"
    assert note["origin"]["address"] == note["input"]
    assert note["origin"]["bytes"] == pictures[0].stat().st_size
    assert note["origin"]["version"]
    assert note["fingerprint"] == json.loads((here / ".glomtile/a.json").read_text("utf-8"))["fingerprint"]
    run = json.loads((there / "run.json").read_text("utf-8"))
    assert run["done"][0] == note["input"]
    assert run["inputs"][note["input"]]["origin"] == note["origin"]


def test_a_finished_slide_is_known_without_being_fetched(
    pictures: list[Path], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    segment(["memory://study"], out, REQUEST)
    with monkeypatch.context() as patched:
        forbid_fetching(patched)
        assert len(segment(["memory://study"], out, REQUEST).skipped) == 2
        with pytest.raises(UsageError, match="--overwrite"):
            segment(["memory://study"], out, SegmentOptions(None, 1.0))
    # The same bytes put there anew are another version: fetched once, found the same, and known from then on.
    store.put_file(str(pictures[0]), "/study/a.png")
    assert len(segment(["memory://study"], out, REQUEST).skipped) == 2
    forbid_fetching(monkeypatch)
    assert len(segment(["memory://study"], out, REQUEST).skipped) == 2


def test_other_content_at_the_same_address_is_no_finished_slide(
    pictures: list[Path], store: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(["memory://study/a.png"], out, REQUEST)
    store.put_file(str(pictures[1]), "/study/a.png")
    ((source, why),) = segment(["memory://study/a.png"], out, REQUEST).failed
    assert str(source) == "memory:///study/a.png"
    assert why.startswith("expected the content of memory:///study/a.png")


def test_results_of_files_are_taken_for_those_of_the_same_bytes_elsewhere(
    pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(pictures, out, REQUEST)
    assert len(segment(["memory://study"], out, REQUEST).skipped) == 2


def test_what_cannot_be_had_is_named_by_its_address_and_the_others_are_done(
    pictures: list[Path], store: Any, tmp_path: Path
) -> None:
    store.pipe_file("/study/broken.svs", b"II*\0")
    store.pipe_file("/study/several.mrxs", b"x")
    store.pipe_file("/other/A.PNG", b"x")
    inputs = ["memory://study", "memory://none/*.svs", "sss://bucket/x", "memory://study/gone.svs",
              "memory://other/A.PNG"]  # fmt: skip
    result = segment(inputs, tmp_path / "out", REQUEST)
    assert len(result.done) == 2
    told = {str(source): why for source, why in result.failed}
    assert set(told) == {
        "memory:///study/broken.svs", "memory:///study/several.mrxs", "memory://none/*.svs", "sss://bucket/x",
        "memory://study/gone.svs", "memory:///other/A.PNG",
    }  # fmt: skip
    assert all(why.startswith(("expected", "duplicate")) for why in told.values()), told
    assert "copy all of them to a folder" in told["memory:///study/several.mrxs"]
    assert "the results would mix" in told["memory:///other/A.PNG"]
    assert not list((tmp_path / "out" / ".glomtile").glob("*.fetched"))


def test_copies_lie_in_the_scratch_folder_that_was_given_and_leave_it_as_it_was(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    fetch = batch.fetched
    monkeypatch.setattr(batch, "fetched", lambda *given: (seen.append(given[1]), fetch(*given))[1])
    (scratch := tmp_path / "scratch").mkdir()
    segment(["memory://study"], tmp_path / "out", SegmentOptions(None, 2.0, scratch=scratch))
    assert len(seen) == 2
    assert all(path.is_relative_to(scratch) for path in seen)
    assert not list(scratch.iterdir())


def test_the_dry_run_tells_of_slides_behind_addresses(pictures: list[Path], tmp_path: Path) -> None:
    plans, failed = dry_run(["memory://study"], tmp_path / "out", REQUEST)
    assert not failed
    assert [str(plan.input) for plan in plans] == [
        "memory:///study/a.png", "memory:///study/ein Schnitt [ü].png",
    ]  # fmt: skip
    assert plans[0].to_dict()["input"] == "memory:///study/a.png"


OUT = "memory://results/out"
RUN_FILES = {"summary.csv", "run.json", "report.html"}


def write_report(folder: Path) -> Path:
    """Write a stand-in for the page of glomtile.report, from what it reads."""
    names = sorted(path.name for kind in batch.REPORTED for path in (folder / kind).iterdir())
    (folder / "report.html").write_text("\n".join(names))
    return folder / "report.html"


def at_address(store: Any) -> dict[str, bytes]:
    return {name.removeprefix("/results/out/"): store.cat_file(name) for name in store.find("/results/out")}


def test_results_at_an_address_are_those_of_a_folder_and_a_run_elsewhere_continues(
    pictures: list[Path], store: Any, tmp_path: Path
) -> None:
    options = SegmentOptions(None, 2.0, zarr=True)
    attach_report(segment(pictures, tmp_path / "out", options), write_report)
    here = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }
    segment(pictures[:1], OUT, replace(options, scratch=tmp_path / "first"))
    first = at_address(store)
    result = segment(pictures, OUT, replace(options, scratch=tmp_path / "second"))
    assert (result.skipped, result.done) == ((pictures[0],), (pictures[1],))
    result = attach_report(result, write_report)
    made = at_address(store)
    assert {name for name in made if not name.startswith("zarr/")} == {
        name for name in here if not name.startswith("zarr/") and not name.endswith(".lock")
    }
    local = results(tmp_path / "out")
    assert {name: made[name] for name in local} == local
    assert {
        name: made[name] for name in first if name.partition("/")[0] in batch.KINDS
    }.items() <= first.items()
    assert made["report.html"] == (tmp_path / "out" / "report.html").read_bytes()
    assert len(made["summary.csv"].splitlines()) == 3
    kinds = ("masks", "geojson", "objects", "overlays")
    assert result.paths == tuple(
        f"{OUT}/{name}" for name in (*kinds, "summary.csv", "run.json", "report.html")
    )
    kept = {path.relative_to(result.folder).parts[0] for path in result.folder.rglob("*") if path.is_file()}
    assert kept == {".glomtile", *RUN_FILES}


def test_a_slide_of_which_a_file_at_the_address_is_missing_is_done_again(
    pictures: list[Path], store: Any, tmp_path: Path
) -> None:
    options = SegmentOptions(None, 2.0, scratch=tmp_path)
    segment(pictures, OUT, options)
    before = at_address(store)
    store.rm_file("/results/out/masks/a.png")
    assert segment(pictures, OUT, options).done == (pictures[0],)
    assert at_address(store)["masks/a.png"] == before["masks/a.png"]


def test_a_store_that_fails_costs_the_slide_whose_files_it_does_not_take(
    pictures: list[Path], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, options = RemoteFolder.put, SegmentOptions(None, 2.0, scratch=tmp_path)

    def lose(self: RemoteFolder, path: Path, name: str) -> None:
        if name == "overlays/a.jpg":
            raise StorageError(self.at(name), "expected a folder that takes files, got: gone")
        put(self, path, name)

    with monkeypatch.context() as patched:
        patched.setattr(RemoteFolder, "put", lose)
        result = segment(pictures, OUT, options)
    assert result.done == (pictures[1],)
    ((path, why),) = result.failed
    assert path == pictures[0]
    assert why.startswith(f"{OUT}/overlays/a.jpg: expected")
    assert ".glomtile/a.json" not in at_address(store)
    assert segment(pictures, OUT, options).done == (pictures[0],)


@pytest.mark.parametrize("address", ["sss://bucket/out", "https://host/out"])
def test_an_address_that_takes_no_files_ends_the_run_at_once(pictures: list[Path], address: str) -> None:
    with pytest.raises(PlaceError) as refused:
        segment(pictures, address, REQUEST)
    assert (refused.value.where, refused.value.exit_code) == (address, 2)


def test_workers_share_no_memory_to_put_results_into(pictures: list[Path]) -> None:
    with pytest.raises(UsageError, match="memory"):
        segment(pictures, OUT, REQUEST, cluster=Cluster(workers=1))


def test_addresses_of_this_machine_are_the_paths_they_name(pictures: list[Path], tmp_path: Path) -> None:
    folder = pictures[0].parent
    (folder / "notes.txt").write_text("none")
    everything = (tuple(pictures), [])
    for name in ("", "/*", "/**", "/*.[p]ng"):
        files, failed = expand_inputs([folder.as_uri() + name])
        assert (tuple(files), failed) == everything, name
    assert expand_inputs([path.as_uri() for path in pictures]) == ([*pictures], [])
    files, failed = expand_inputs([f"{folder.as_uri()}/*.svs", f"{folder.as_uri()}/gone.svs"])
    assert files == [folder / "gone.svs"]
    assert "expected at least one of" in failed[0][1]


def test_results_at_an_address_of_this_machine_lie_in_the_folder(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for a store whose credentials are missing."""
    monkeypatch.setenv("GLOMTILE_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "new folder"
    told = segment([path.as_uri() for path in pictures], out.as_uri(), REQUEST)
    assert told.done == tuple(pictures)
    assert told.folder == out
    assert out / "summary.csv" in told.paths
    assert not list((tmp_path / "cache").glob("results-*"))
    assert segment(pictures, out, REQUEST).skipped == tuple(pictures)
