"""Legacy PyTorch files are read without PyTorch, and hostile ones execute nothing."""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomtile.errors import InputError
from glomtile.models.torch_file import MAGIC, PROTOCOL, read_torch_file

SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


class Tensor:
    """An array and its storage, pickled as PyTorch pickles a tensor."""

    def __init__(
        self, storage: np.ndarray, key: str, shape=None, strides=None, offset: int = 0, size=None
    ) -> None:
        self.storage, self.key, self.offset = storage, key, offset
        self.size = storage.size if size is None else size
        self.shape = storage.shape if shape is None else shape
        self.strides = strides or tuple(int(s) // storage.itemsize for s in storage.strides)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """Modules of PyTorch's names, whose functions must never run."""

    def _rebuild_tensor_v2(*_: Any) -> None:
        raise AssertionError("the pickle was executed")

    class FloatStorage:
        pass

    class LongStorage:
        pass

    root, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    root._utils, utils._rebuild_tensor_v2 = utils, _rebuild_tensor_v2
    for kind in (FloatStorage, LongStorage):
        kind.__module__, kind.__qualname__ = "torch", kind.__name__
        setattr(root, kind.__name__, kind)
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", root)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return root


class Pickler(pickle.Pickler):
    """Writes tensors as PyTorch does: a call that rebuilds them, their storages by name."""

    def persistent_id(self, item: Any) -> Any:
        if isinstance(item, np.ndarray):
            torch = sys.modules["torch"]
            kind = torch.FloatStorage if item.dtype == np.float32 else torch.LongStorage
            return ("storage", kind, self.keys[id(item)], "cpu", self.sizes[id(item)], None)
        return None

    def reducer_override(self, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return NotImplemented
        self.keys[id(item.storage)], self.sizes[id(item.storage)] = item.key, item.size
        arguments = (item.storage, item.offset, item.shape, item.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


def torch_file(path: Path, tensors: dict[str, Any], *, magic: int = MAGIC, protocol: int = 2) -> Path:
    """Write what ``torch.save`` of a version before 1.6 writes."""
    out = io.BytesIO()
    for item in (magic, PROTOCOL, SYSTEM):
        pickle.dump(item, out, protocol=2)
    pickler = Pickler(out, protocol=protocol)
    pickler.keys, pickler.sizes = {}, {}
    pickler.dump(OrderedDict(tensors))
    storages = {tensor.key: tensor.storage for tensor in tensors.values() if isinstance(tensor, Tensor)}
    pickle.dump(list(storages), out, protocol=2)
    for storage in storages.values():
        out.write(np.array(storage.size, "<i8").tobytes() + storage.tobytes())
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "norm.bias": np.arange(400, dtype=np.float32),
        "norm.num_batches_tracked": np.array(7, np.int64),
    }


def test_arrays_come_back_equal(tmp_path, arrays):
    path = torch_file(
        tmp_path / "a.pth", {name: Tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())}
    )
    read = read_torch_file(path)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_views_of_a_shared_storage_are_read_by_their_strides(tmp_path):
    storage = np.arange(24, dtype=np.float32)
    tensors = {
        "transposed": Tensor(storage, "1", shape=(4, 6), strides=(1, 4)),
        "part": Tensor(storage, "1", shape=(2, 3), strides=(3, 1), offset=10),
    }
    read = read_torch_file(torch_file(tmp_path / "a.pth", tensors))
    np.testing.assert_array_equal(read["transposed"], storage.reshape(6, 4).T)
    np.testing.assert_array_equal(read["part"], storage[10:16].reshape(2, 3))


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_that_calls_anything_else_is_refused_and_not_executed(tmp_path):
    mark = tmp_path / "executed"
    for name, item in (("call", Hostile(mark)), ("function", print), ("number", 1.5)):
        path = torch_file(tmp_path / f"{name}.pth", {"weight": item})
        with pytest.raises(InputError, match=r"expected"):
            read_torch_file(path)
    assert not mark.exists()


def test_a_global_that_is_not_a_tensors_is_named(tmp_path):
    path = torch_file(tmp_path / "a.pth", {"weight": Hostile(tmp_path / "executed")})
    with pytest.raises(InputError, match=r"_rebuild_tensor_v2, got "):
        read_torch_file(path)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(np.zeros(8, np.float32), "1", shape=(3, 3), strides=(3, 1)),
        Tensor(np.zeros(8, np.float32), "1", shape=(2,), strides=(-1,), offset=4),
        Tensor(np.zeros(8, np.float32), "1", shape=(2,), strides=(1,), offset=-1),
        Tensor(np.zeros(8, np.float32), "1", shape=(2**40,), strides=(1,)),
        Tensor(np.zeros(8, np.float32), "1", size=9),
        Tensor(np.zeros(8, np.float32), "1", size=2**45),
    ],
    ids=["too-large", "backwards", "before", "huge", "other-size", "huge-size"],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, tensor):
    with pytest.raises(InputError, match=r"storage|stored|strides"):
        read_torch_file(torch_file(tmp_path / "a.pth", {"weight": tensor}))


@pytest.mark.parametrize("strides", [(0,), (1,)])
def test_few_numbers_are_no_large_array(tmp_path, strides):
    tensors = {
        f"weight{i}": Tensor(np.zeros(2**16, np.float32), "1", shape=(2**16,), strides=strides)
        for i in range(9)
    }
    path = torch_file(tmp_path / "a.pth", tensors)
    with pytest.raises(
        InputError, match=r"expected (tensors that are stored|the tensor weight0 with strides)"
    ):
        read_torch_file(path)


def test_deep_containers_and_long_arguments_end_at_once(tmp_path):
    """Names that take long to hash, values that take long to print, arguments that fill the memory."""
    deep = b"\x80\x02(" + b"K\x01" + b"\x85" * 900_000 + b"K\x01d."
    doubled = b"\x80\x02" + b"]" + b"q\x00h\x00\x86" * 60 + b"."
    endless = b"\x80\x04\x8d" + (2**50).to_bytes(8, "little") + b"a."
    header = b"".join(pickle.dumps(item, protocol=2) for item in (MAGIC, PROTOCOL, SYSTEM))
    for name, body in (
        ("deep", header + deep),
        ("magic", doubled),
        ("names", header + doubled),
        ("long", endless),
    ):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError, match=name) as caught:
            read_torch_file(tmp_path / name)
        assert len(str(caught.value)) < 1000


def test_a_file_cut_anywhere_is_refused(tmp_path, arrays):
    tensors = {name: Tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())}
    whole = torch_file(tmp_path / "a.pth", tensors).read_bytes()
    for length in range(0, len(whole), 13):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.pth"):
            read_torch_file(path)


def test_other_files_are_refused(tmp_path, arrays):
    tensors = {"weight": Tensor(arrays["norm.bias"], "1")}
    other_magic = torch_file(tmp_path / "magic.pth", tensors, magic=MAGIC + 1)
    newer = torch_file(tmp_path / "newer.pth", tensors, protocol=4)
    np.savez(tmp_path / "zip.npz", **arrays)
    (tmp_path / "text.pth").write_text("weights")
    for path in (other_magic, newer, tmp_path / "zip.npz", tmp_path / "text.pth"):
        with pytest.raises(InputError, match=r"expected .* got"):
            read_torch_file(path)
