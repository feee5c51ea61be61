import numpy as np
import pytest
import zarr

from glomtile.errors import InputError, UsageError
from glomtile.io.pyramids import write_label_zarr
from glomtile.palette import Palette

THREE = Palette.from_rgb_map(
    {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2}, ["background", "tuft", "vessel"]
)


def planes():
    base = np.zeros((1500, 1101), np.uint8)
    base[200:900, 300:1090] = 1
    base[1200:1300, 17:60] = 2
    return [base, base[::2, ::2], base[::4, ::4]]


@pytest.fixture
def written(tmp_path):
    write_label_zarr(tmp_path / "m.ome.zarr", planes(), THREE, 0.25, "mask")
    return tmp_path / "m.ome.zarr"


def test_plain_zarr_reads_every_level_and_its_metadata(written):
    group = zarr.open_group(written, mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer", "micrometer"]
    for number, (entry, plane) in enumerate(zip(multiscale["datasets"], planes(), strict=True)):
        array = group[entry["path"]]
        assert array.metadata.zarr_format == 3
        assert array.metadata.dimension_names == ("y", "x")
        assert np.array_equal(array[:], plane)
        assert entry["coordinateTransformations"] == [{"type": "scale", "scale": [0.25 * 2**number] * 2}]
    assert {entry["label-value"]: entry["class"] for entry in ome["image-label"]["properties"]} == {
        0: "background", 1: "tuft", 2: "vessel",
    }  # fmt: skip


def test_ome_zarr_reads_it_as_a_label(written):
    io = pytest.importorskip("ome_zarr.io", reason="ome-zarr is not installed")
    reader = pytest.importorskip("ome_zarr.reader", reason="ome-zarr is not installed")
    nodes = list(reader.Reader(io.parse_url(str(written), mode="r"))())
    node = nodes[0]
    assert any(isinstance(spec, reader.Label) for spec in node.specs)
    assert len(node.data) == 3
    for stored, plane in zip(node.data, planes(), strict=True):
        assert np.array_equal(np.asarray(stored), plane)
    assert node.metadata["color"][1] == pytest.approx([1, 0, 0, 1])
    assert node.metadata["coordinateTransformations"][1][0]["scale"] == [0.5, 0.5]


def test_empty_chunks_take_no_space(tmp_path):
    write_label_zarr(tmp_path / "z", [np.zeros((3000, 3000), np.uint8)], THREE, None, "n")
    assert sorted(path.name for path in (tmp_path / "z" / "0").iterdir()) == ["zarr.json"]
    assert "unit" not in zarr.open_group(tmp_path / "z", mode="r").attrs["ome"]["multiscales"][0]["axes"][0]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    trees = []
    for name in ("a", "b"):
        write_label_zarr(tmp_path / name, planes(), THREE, 0.25, "mask")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert trees[0] == trees[1]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0", "1", "2", "zarr.json"]


def test_a_bad_label_leaves_the_old_folder(written):
    before = (written / "zarr.json").read_bytes()
    with pytest.raises(InputError, match="got 9"):
        write_label_zarr(written, [np.full((9, 9), 9, np.uint8)], THREE, 0.25, "mask")
    assert (written / "zarr.json").read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_scale_that_is_not_above_0_is_refused(tmp_path):
    with pytest.raises(UsageError, match="above 0"):
        write_label_zarr(tmp_path / "z", planes(), THREE, 0.0, "n")
