"""Half weights."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.networks.onnx import as_float16

_WEIGHTS = "model.weights.h5"


def halve_weights(path: Path) -> None:
    """Rewrite a ``.keras`` file with its kernels rounded to float16.

    Parameters
    ----------
    path : Path
        As Keras saved it, replaced in place: give a file that nobody uses yet.

    Raises
    ------
    ModelError
        A weight is too large for float16.

    Notes
    -----
    Keras assigns stored arrays to variables, which keep their float32. Arrays of one axis (biases,
    statistics) stay as they are: they take no space, and variances may be too small for float16.
    """
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    parts[_WEIGHTS] = _halved(parts[_WEIGHTS])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)


def _halved(content: bytes) -> bytes:
    import h5py

    target = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as old, h5py.File(target, "w") as new:
        _copy_attributes(old, new)

        def copy(name: str, entry: Any) -> None:
            if isinstance(entry, h5py.Group):
                _copy_attributes(entry, new.require_group(name))
                return
            values = entry[()]
            if values.dtype == np.float32 and values.ndim > 1:
                values = as_float16(values, name)
            _copy_attributes(entry, new.create_dataset(name, data=values))

        old.visititems(copy)
    return target.getvalue()


def _copy_attributes(source: Any, target: Any) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value
