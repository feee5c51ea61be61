"""Reader of PyTorch's legacy files of weights, without PyTorch and without executing a pickle.

Notes
-----
A legacy file (``torch.save`` before version 1.6) is five pickles (a magic number, the protocol, the byte
order, the tensors, the keys of their storages) and the raw storages. The opcodes are interpreted here: only
those that a dictionary of tensors needs are known, and of globals four names, none of which is imported.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from glomtile.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_FILE_BYTES = 2**29
_MAX_OPCODES = 1_000_000

_STORAGES = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_ORDERED_DICT, _REBUILD = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_GLOBALS = (*_STORAGES, _ORDERED_DICT, _REBUILD)

_MARK = object()


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: Any
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a legacy PyTorch file.

    Parameters
    ----------
    path : Path
        A file of a state dict: names to tensors of float32 or int64.

    Returns
    -------
    dict
        Arrays by name.

    Raises
    ------
    InputError
        The file is no such file, is cut short, or its pickle needs anything but tensors.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(path, f"expected at most {MAX_FILE_BYTES:,} bytes, got {size:,}")
        with path.open("rb") as file:
            return _read(file, size)
    except _OtherFileError as problem:
        raise InputError(path, f"expected {problem}", "the format of PyTorch before 1.6 is read") from None
    except _DAMAGES as problem:
        reason = f"{type(problem).__name__} {problem}"[:_LONGEST_REASON]
        raise InputError(
            path, f"expected a file of weights by PyTorch before 1.6, got a damaged or another one: {reason}"
        ) from problem


_LONGEST_REASON = 200
_DAMAGES = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OSError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip
"""What reading a file raises that is cut short, damaged or made to harm."""


class _OtherFileError(Exception):
    """The file has something else; the message continues "expected"."""


def _read(file: BinaryIO, file_bytes: int) -> dict[str, np.ndarray]:
    for name, expected in (("magic number", MAGIC), ("protocol", PROTOCOL)):
        if _load(file) != expected:
            raise _OtherFileError(f"the {name} {expected}, got another value")
    if _load(file).get("little_endian") is not True:
        raise _OtherFileError("numbers in little-endian order, got others")
    tensors, keys = _load(file), _load(file)
    known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {key: _read_storage(file, known[key], file_bytes) for key in keys}
    total = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if total > _MOST_SHARED * sum(storage.size for storage in known.values()):
        raise _OtherFileError(f"tensors that are stored, got {total:,} numbers of far fewer")
    return {name: _array(name, tensor, storages) for name, tensor in tensors.items()}


_MOST_SHARED = 4
"""Numbers of all tensors over those of all storages: tied weights share theirs."""


def _load(file: BinaryIO) -> Any:
    """Interpret one pickle; the file is left behind its end."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MAX_OPCODES:
            raise _OtherFileError(f"at most {_MAX_OPCODES:,} opcodes, got more")
        name = opcode.name
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            if argument not in _GLOBALS:
                raise _OtherFileError(
                    f"no other names than {', '.join(_GLOBALS)}, got {str(argument)[:_LONGEST_REASON]}"
                )
            stack.append(_Global(argument))
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise _OtherFileError(f"a dictionary of tensors, got the opcode {name}")
    raise EOFError("the pickle has no end")


def _to_mark(stack: list[Any]) -> list[Any]:
    """Take what is above the last mark, and the mark."""
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _tuple(stack: list[Any]) -> None:
    items = _to_mark(stack)
    stack.append(tuple(items))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][_name(key)] = value


def _set_items(stack: list[Any]) -> None:
    items = _to_mark(stack)
    stack[-1].update(zip(map(_name, items[::2]), items[1::2], strict=True))


def _name(key: Any) -> str:
    """Return a key, which is text: hashing deep tuples could take for ever."""
    if not isinstance(key, str):
        raise _OtherFileError(f"names of tensors as text, got {type(key).__name__}")
    return key


def _append(stack: list[Any]) -> None:
    item = stack.pop()
    stack[-1].append(item)


def _append_items(stack: list[Any]) -> None:
    items = _to_mark(stack)
    stack[-1].extend(items)


def _storage(stack: list[Any]) -> None:
    kind, storage, key, _, size, _ = stack.pop()
    if kind != "storage" or not isinstance(size, int):
        raise _OtherFileError("a storage of a number of elements, got another object")
    stack.append(_Storage(_name(key), _STORAGES[storage.name], size))


def _reduce(stack: list[Any]) -> None:
    """Make an empty dictionary or a tensor, the two things that a file of weights calls for."""
    arguments, function = stack.pop(), stack.pop()
    if function == _Global(_ORDERED_DICT) and not arguments:
        stack.append({})
    elif function == _Global(_REBUILD) and isinstance(arguments[0], _Storage):
        storage, offset, shape, strides = arguments[:4]
        if not all(isinstance(number, int) for number in (offset, *shape, *strides)):
            raise _OtherFileError("whole numbers as shape and strides of a tensor, got others")
        stack.append(_Tensor(storage, offset, shape, strides))
    else:
        raise _OtherFileError("tensors, got another call")


def _build(stack: list[Any]) -> None:
    """Drop the attributes of the dictionary: versions of PyTorch's modules."""
    stack.pop()


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
}
_ARGUMENTS = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _tuple,
    "TUPLE1": lambda stack: stack.append((stack.pop(),)),
    "TUPLE2": lambda stack: stack.append((stack.pop(-2), stack.pop())),
    "TUPLE3": lambda stack: stack.append((stack.pop(-3), stack.pop(-2), stack.pop())),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _append_items,
    "BINPERSID": _storage,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _read_storage(file: BinaryIO, storage: _Storage, file_bytes: int) -> np.ndarray:
    """Read the next storage: its number of elements, then the elements."""
    size = int(np.frombuffer(file.read(8), "<i8")[0])
    if not 0 <= size <= file_bytes // storage.dtype.itemsize:
        raise _OtherFileError(
            f"a storage that the file of {file_bytes:,} bytes can hold, got {size:,} numbers"
        )
    if size != storage.size:
        raise _OtherFileError(f"{storage.size:,} numbers in the storage {storage.key}, got {size:,}")
    return np.frombuffer(file.read(size * storage.dtype.itemsize), storage.dtype, count=size)


def _array(name: str, tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    data = storages[tensor.storage.key]
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, data.dtype)
    if any(n > 1 and step < 1 for n, step in zip(tensor.shape, tensor.strides, strict=True)):
        raise _OtherFileError(f"the tensor {name[:_LONGEST_REASON]} with strides of 1 and more, got others")
    steps = [(n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum(steps)
    if min((tensor.offset, *tensor.strides, *steps)) < 0 or last >= data.size:
        raise _OtherFileError(
            f"the tensor {name[:_LONGEST_REASON]} inside its storage, got {tensor.offset:,} to {last:,}"
        )
    strides = [step * data.itemsize for step in tensor.strides]
    return np.array(np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides))
