"""What `segment` says and leaves behind when a slide or the place for its results goes away while it runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk
from tests.fakes import ThresholdNetwork, threshold_card

import glomtile.cli.main
from glomtile.errors import StorageError
from glomtile.inference.batch import SegmentOptions, SegmentResult, segment
from glomtile.inference.image import TilingSettings
from glomtile.inference.label_store import Plane
from glomtile.inference.segmenter import Segmenter
from glomtile.io import atomic as workspace
from glomtile.slides import backends as slide_levels
from glomtile.slides.backends import TiffPixels
from glomtile.types import UInt8

LONG = pytest.mark.long
KINDS = ("masks", "geojson", "objects", "overlays", "tissue")
SIZE = (1800, 400)


@contextmanager
def purple_network() -> Iterator[ThresholdNetwork]:
    purple = ThresholdNetwork()
    card = threshold_card()

    def load(folder: Any, settings: TilingSettings | None = None, tta: Any = None, **more: Any) -> Segmenter:
        return Segmenter(purple, card, TilingSettings(window_px=256, read_threads=1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "load", load)
        patch.setattr("glomtile.inference.batch.runtime_of", lambda request: "openvino")
        # The first look at a small slide would keep all of it.
        patch.setattr(slide_levels, "_CACHE_BYTES", 2**17)
        yield purple


@pytest.fixture
def network() -> Iterator[ThresholdNetwork]:
    with purple_network() as purple:
        yield purple


def slide(path: Path, seed: int = 0) -> Path:
    """Tissue with discs and noise, so that tiles are large, as a tiled TIFF of 2 µm per pixel."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*SIZE, 3), (200, 120, 170), np.uint8)
    for row in range(150, SIZE[0] - 100, 220):
        pixels[disk((row + int(rng.integers(-30, 30)), 200), 60)] = (120, 40, 120)
    pixels += rng.integers(0, 30, pixels.shape, dtype=np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(128, 128), photometric="rgb", ome=True, compression="deflate",
        metadata={"axes": "YXS", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0},
    )  # fmt: skip
    return path


def run(out: Path, *paths: Path) -> SegmentResult:
    return segment(paths, out, SegmentOptions(out))


def outputs(out: Path, stem: str = "") -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kind in KINDS
        if (out / kind).is_dir()
        for path in sorted((out / kind).iterdir())
        if path.name.startswith(stem)
    }


@dataclass(frozen=True)
class Undisturbed:
    """Two slides, the files a run makes that nothing happens to, and how often it asks the network."""

    folder: Path
    outputs: dict[str, bytes]
    calls: int

    def copy(self, folder: Path) -> tuple[Path, Path]:
        """Copy the slides, for something to happen to them."""
        first, second = (Path(shutil.copy(self.folder / f"{name}.ome.tif", folder)) for name in "ab")
        return first, second

    def of(self, stem: str) -> dict[str, bytes]:
        return {name: data for name, data in self.outputs.items() if f"/{stem}" in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    paths = [slide(folder / f"{name}.ome.tif", seed) for seed, name in enumerate("ab")]
    with purple_network() as network:
        run(folder / "out", *paths)
    for name in "ab":
        assert len(json.loads((folder / f"out/geojson/{name}.geojson").read_text())["features"]) > 5
    return Undisturbed(folder, outputs(folder / "out"), network.calls)


def require_whole(out: Path) -> None:
    """Everything under a final name can be read, and nothing half-written lies beside it."""
    for path in outputs(out):
        assert not Path(path).name.startswith("."), path
        if path.endswith(".geojson"):
            json.loads((out / path).read_text("utf-8"))
        elif path.endswith(".tif"):
            tifffile.imread(out / path)


def test_a_slide_cut_off_half_way_is_named_the_others_finish_and_it_goes_on_when_it_is_back(
    tmp_path: Path, network: ThresholdNetwork, whole: Undisturbed
) -> None:
    a, b = whole.copy(tmp_path)
    content = a.read_bytes()
    network.at = {whole.calls // 4: lambda: os.truncate(a, len(content) // 4)}
    result = run(tmp_path / "out", a, b)
    assert result.done == (b,)
    ((path, reason),) = result.failed
    assert path == a
    assert "of a tile, got" in reason
    assert "it is cut off" in reason
    assert outputs(tmp_path / "out", "a") == {}
    assert outputs(tmp_path / "out", "b") == whole.of("b")
    require_whole(tmp_path / "out")
    a.write_bytes(content)
    network.calls, network.at = 0, {}
    assert run(tmp_path / "out", a, b).done == (a,)
    assert network.calls < whole.calls // 2
    assert outputs(tmp_path / "out") == whole.outputs
    assert [p.name for p in (tmp_path / "out/.glomtile").iterdir() if "work" in p.name] == []


def test_a_slide_deleted_half_way_is_read_on_where_the_system_keeps_it(
    tmp_path: Path, network: ThresholdNetwork, whole: Undisturbed
) -> None:
    a, b = whole.copy(tmp_path)
    network.at = {whole.calls // 4: a.unlink}
    result = run(tmp_path / "out", a, b)
    assert result.done == (a, b)
    assert outputs(tmp_path / "out") == whole.outputs
    ((_, reason),) = run(tmp_path / "out", a, b).failed
    assert reason == "expected a slide or image, the file does not exist"


@pytest.mark.parametrize(
    "number", [errno.ESTALE, *(pytest.param(number, marks=LONG) for number in (errno.EIO, errno.ENOTCONN))]
)
def test_a_share_that_goes_away_half_way_is_told_by_the_slides_name(
    tmp_path: Path,
    network: ThresholdNetwork,
    whole: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    a, b = whole.copy(tmp_path)

    class Gone:
        @property
        def filehandle(self) -> Any:
            raise OSError(number, os.strerror(number))

        def close(self) -> None:
            """There is nothing to close."""

    opened, open_tiff = list[Any](), TiffPixels._open

    def remembered(self: TiffPixels, progress: Any) -> None:
        open_tiff(self, progress)
        opened.append(self)

    def gone() -> None:
        # Between two reads, as a share goes: not closed under a thread that reads.
        with opened[0]._lock:
            opened[0].close()
            opened[0]._file = Gone()

    monkeypatch.setattr(TiffPixels, "_open", remembered)
    network.at = {whole.calls // 4: gone}
    result = run(tmp_path / "out", a, b)
    assert result.done == (b,)
    assert result.failed == ((a, f"expected a slide that stays, got: {os.strerror(number)}"),)
    assert outputs(tmp_path / "out", "a") == {}
    assert outputs(tmp_path / "out", "b") == whole.of("b")


@pytest.mark.shared
def test_a_scanners_slide_cut_off_half_way_is_named(
    tmp_path: Path, network: ThresholdNetwork, shared_data: Path
) -> None:
    a = tmp_path / "a.svs"
    shutil.copy(shared_data / "slides" / "CMU-1-Small-Region.svs", a)
    b = slide(tmp_path / "b.ome.tif")
    # OpenSlide keeps tiles it has read: nearly all of it goes.
    network.at = {1: lambda: os.truncate(a, 4096)}
    result = run(tmp_path / "out", a, b)
    assert result.done == (b,)
    ((path, reason),) = result.failed
    assert path == a
    assert reason.startswith("expected a whole slide, got: ")
    assert outputs(tmp_path / "out", "a") == {}


def test_a_picture_deleted_before_its_pixels_are_read_is_named(
    tmp_path: Path, network: ThresholdNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glomtile.slides.backends import ImagePixels

    picture = tmp_path / "a.png"
    tifffile.imwrite(tmp_path / "b.tif", np.full((40, 40, 3), 200, np.uint8), photometric="rgb")
    workspace.write_bytes(picture, _png())
    read = ImagePixels.read

    def late(self: ImagePixels, level: int, box: Any) -> UInt8:
        if self._path == picture:
            picture.unlink(missing_ok=True)
        return read(self, level, box)

    monkeypatch.setattr(ImagePixels, "read", late)
    result = segment([picture, tmp_path / "b.tif"], tmp_path / "out", SegmentOptions(tmp_path, mpp=2.0))
    assert result.done == (tmp_path / "b.tif",)
    ((path, reason),) = result.failed
    assert path == picture
    assert "expected" in reason
    assert outputs(tmp_path / "out", "a") == {}


def _png() -> bytes:
    from glomtile.io.images import encode_png

    return encode_png(np.full((64, 64, 3), 200, np.uint8), 2.0)


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Without the right to write in a folder: as another user where we are root, else by its mode."""
    mode = folder.stat().st_mode
    if os.geteuid() == 0:
        folder.chmod(0o755)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0o555)
        yield
    folder.chmod(mode)


@pytest.fixture
def open_place(network: ThresholdNetwork, whole: Undisturbed) -> Iterator[Path]:
    """A folder that everybody may enter, with two slides; all that a run needs is imported."""
    if os.name != "posix":
        pytest.skip("rights are told by users and modes of files here")
    with tempfile.TemporaryDirectory(prefix="glomtile-rights-") as name:
        place = Path(name)
        place.chmod(0o755)
        whole.copy(place)
        yield place


def test_a_place_where_no_folder_may_be_made_ends_the_run_at_once(
    open_place: Path, network: ThresholdNetwork
) -> None:
    out = open_place / "locked" / "out"
    out.parent.mkdir()
    with nobody(out.parent), pytest.raises(StorageError) as told:
        run(out, open_place / "a.ome.tif", open_place / "b.ome.tif")
    assert "expected to write here, got: permission denied" in str(told.value)
    assert str(out) in str(told.value)
    assert told.value.exit_code == 2
    assert network.calls == 0
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["masks", "overlays", *(pytest.param(kind, marks=LONG) for kind in ("geojson", "objects"))]
)
def test_one_folder_of_results_without_rights_fails_every_slide_by_name_and_writes_no_half_file(
    open_place: Path, whole: Undisturbed, kind: str
) -> None:
    out = open_place / "out"
    for name in (*KINDS, ".glomtile"):
        (out / name).mkdir(parents=True)
        if name != kind:
            (out / name).chmod(0o777)
    slides = [open_place / f"{name}.ome.tif" for name in "ab"]
    out.chmod(0o777)
    with nobody(out / kind):
        result = run(out, *slides)
    assert result.done == ()
    assert [path for path, _ in result.failed] == slides
    assert all("expected to write here, got: permission denied" in reason for _, reason in result.failed)
    assert all(f"{out / kind}" in reason for _, reason in result.failed)
    assert list((out / kind).iterdir()) == []
    require_whole(out)
    assert run(out, *slides).done == tuple(slides)
    assert outputs(out) == whole.outputs


CHUNKS_AND_FILES = (("rows", 1), ("rows", 4), *(("files", count) for count in range(1, 6)))
QUOTAS = [(*place, number) for place in CHUNKS_AND_FILES for number in (errno.EDQUOT, errno.ENOSPC)]
QUICK_QUOTAS = {("rows", 4, errno.ENOSPC), ("files", 1, errno.EDQUOT), ("files", 5, errno.ENOSPC)}


@pytest.mark.parametrize(
    ("stage", "wanted", "number"),
    [pytest.param(*quota, marks=[] if quota in QUICK_QUOTAS else LONG) for quota in QUOTAS],
)
def test_a_quota_that_is_used_up_is_told_and_what_is_there_is_whole(
    tmp_path: Path,
    network: ThresholdNetwork,
    whole: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    wanted: int,
    number: int,
) -> None:
    """By decree: at a chunk of rows of the first slide, or at any of its files."""
    words = {errno.EDQUOT: "the disk quota is used up", errno.ENOSPC: "the disk is full"}[number]
    paths, out, seen = whole.copy(tmp_path), tmp_path / "out", 0

    def refuse() -> None:
        nonlocal seen
        seen += 1
        if seen == wanted:
            raise OSError(number, os.strerror(number))

    write, sync = Plane.__setitem__, workspace._sync

    def chunk(self: Plane, *where: Any) -> None:
        refuse()
        write(self, *where)

    def file(path: Path) -> None:
        if path.is_file() and path.parent.name in KINDS:
            refuse()
        sync(path)

    with monkeypatch.context() as patch:
        if stage == "rows":
            patch.setattr(Plane, "__setitem__", chunk)
        else:
            patch.setattr(workspace, "_sync", file)
        result = run(out, *paths)
    assert result.done == paths[1:]
    ((path, reason),) = result.failed
    assert path == paths[0]
    assert f"expected to write here, got: {words}" in reason
    assert len(outputs(out, "a")) == (0 if stage == "rows" else wanted - 1)
    require_whole(out)
    assert run(out, *paths).done == paths[:1]
    assert outputs(out) == whole.outputs


def test_a_disk_that_fills_between_two_slides_keeps_the_first_and_goes_on_with_more_room(
    tmp_path: Path, network: ThresholdNetwork, whole: Undisturbed, mount: Callable[[str], Path]
) -> None:
    paths = whole.copy(tmp_path)
    needed = sum(map(len, whole.of("a").values()))
    place = mount(f"{needed * 3 // 2048 + 60}k")
    out = place / "out"
    assert run(out, paths[0]).done == paths[:1]
    fill = os.statvfs(place)
    (place / "others").write_bytes(bytes(max(0, fill.f_bavail * fill.f_frsize - 2 * fill.f_frsize)))
    try:
        result = run(out, *paths)
        ((path, reason),) = result.failed
        assert (path, result.skipped) == (paths[1], paths[:1])
    except StorageError as refused:
        reason = str(refused)
    assert "expected to write here, got: the disk is full" in reason
    require_whole(out)
    assert outputs(out, "a") == whole.of("a")
    subprocess.run([shutil.which("mount") or "mount", "-o", "remount,size=64m", str(place)], check=True)
    result = run(out, *paths)
    assert (result.skipped, result.done) == (paths[:1], paths[1:])
    assert outputs(out) == whole.outputs


class WaitingError(Exception):
    """The second run waits for the first."""


def test_a_second_run_does_not_disturb_the_slide_of_the_first(
    tmp_path: Path, network: ThresholdNetwork, whole: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = whole.copy(tmp_path)

    def wait(seconds: float) -> None:
        raise WaitingError

    def second() -> None:
        monkeypatch.setattr("glomtile.inference.batch.time.sleep", wait)
        with pytest.raises(WaitingError):
            run(tmp_path / "out", a, b)

    network.at = {whole.calls // 4: second}
    result = run(tmp_path / "out", a, b)
    assert (result.done, result.skipped) == ((a,), (b,))
    assert outputs(tmp_path / "out") == whole.outputs


def test_the_command_ends_with_1_where_a_slide_goes(
    tmp_path: Path, network: ThresholdNetwork, whole: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    (a, b), out = whole.copy(tmp_path), tmp_path / "out"
    network.at = {4: lambda: os.truncate(a, 1000)}
    assert glomtile.cli.main.run(["segment", str(a), str(b), "-m", str(tmp_path), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert "failed: 1" in printed.err
    assert "it is cut off" in printed.err
    assert {Path(name).name[0] for name in outputs(out)} == {"b"}
