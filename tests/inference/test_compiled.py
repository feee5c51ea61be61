"""Compiled networks are kept for later processes, never mistaken for another's, and never needed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from glomtile.errors import ModelError, PlaceError
from glomtile.inference import compiled
from glomtile.inference.runtime import OpenVinoPredictor, openvino_forward
from glomtile.io.atomic import user_cache
from glomtile.models.folder import bundled_folder, read_card

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; its compiled networks lie in the folder given here."""
    monkeypatch.setenv("GLOMTILE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


class Counting:
    """OpenVINO, and how often it was asked to compile and to import."""

    def __init__(self) -> None:
        self._core = openvino.Core()
        self.compiled = self.imported = 0

    def compile_model(self, *arguments: Any) -> Any:
        self.compiled += 1
        return self._core.compile_model(*arguments)

    def import_model(self, *arguments: Any) -> Any:
        self.imported += 1
        return self._core.import_model(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def compilations(path: Path, settings: dict[str, str] = SETTINGS) -> int:
    core = Counting()
    compiled.kept_network(core, path, settings)
    return core.compiled


def answer(folder: Path) -> np.ndarray:
    batch = np.random.default_rng(5).integers(0, 256, (2, 96, 160, 3), dtype=np.uint8)
    return OpenVinoPredictor(folder, read_card(folder))(batch)


def test_a_kept_network_answers_the_same_bits(exported_model: Path, cache: Path) -> None:
    bundled = bundled_folder()
    assert bundled is not None
    for number, folder in enumerate((exported_model, bundled), start=1):
        first = answer(folder)
        assert len(list(cache.iterdir())) == number
        np.testing.assert_array_equal(answer(folder), first)
        assert compilations(folder / "model.onnx") == 0


def test_another_network_or_setting_is_compiled(
    exported_model: Path, write_model: Callable[..., Path], cache: Path
) -> None:
    from glomtile.inference.export import export

    other = write_model(seed=4)
    export(other)
    path = exported_model / "model.onnx"
    assert compilations(path) == 1
    assert compilations(other / "model.onnx") == 1
    assert compilations(path, {**SETTINGS, "INFERENCE_NUM_THREADS": "1"}) == 1
    assert compilations(path, {**SETTINGS, "INFERENCE_PRECISION_HINT": "bf16"}) == 1
    assert compilations(path) == compilations(other / "model.onnx") == 0


def test_weights_beside_an_xml_count(exported_model: Path, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "network.xml"
    openvino.save_model(openvino.Core().read_model(exported_model / "model.onnx"), path)
    assert [compilations(path), compilations(path)] == [1, 0]
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    path.with_suffix(".bin").write_bytes(weights)
    assert compilations(path) == 1


@pytest.mark.parametrize("harm", ["emptied", "cut", "changed", "another's"])
def test_what_is_no_longer_what_was_kept_is_replaced(exported_model: Path, cache: Path, harm: str) -> None:
    path = exported_model / "model.onnx"
    first = answer(exported_model)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    if harm == "another's":  # whole, and refused by OpenVINO
        strange = whole[32:].replace(openvino.get_version().split("-")[0].encode(), b"1999.1.1", 1)
        assert strange != whole[32:]
        kept.write_bytes(hashlib.sha256(strange).digest() + strange)
    else:
        flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
        kept.write_bytes({"emptied": b"", "cut": whole[:-1], "changed": flipped}[harm])
    assert compilations(path) == 1
    assert compilations(path) == 0
    np.testing.assert_array_equal(answer(exported_model), first)


def test_without_a_place_to_keep_it_everything_else_works(
    exported_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(exported_model)
    (tmp_path / "file").write_text("no folder")
    for odd in (tmp_path / "file", tmp_path / ("n" * 300)):
        monkeypatch.setenv("GLOMTILE_CACHE_DIR", str(odd))
        np.testing.assert_array_equal(answer(exported_model), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GLOMTILE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    np.testing.assert_array_equal(answer(exported_model), expected)
    with pytest.raises(PlaceError, match=r"expected a home folder .* found none.* GLOMTILE_CACHE_DIR"):
        user_cache()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ESTALE, errno.EINVAL])
def test_a_drive_that_fails_costs_nothing_but_the_keeping(
    exported_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def failing(path: Path, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    expected = answer(exported_model)
    for kept in cache.iterdir():
        kept.unlink()
    monkeypatch.setattr(Path, "write_bytes", failing)
    np.testing.assert_array_equal(answer(exported_model), expected)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_not_there_is_told_as_ever(exported_model: Path, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "network.xml"
    openvino.save_model(openvino.Core().read_model(exported_model / "model.onnx"), path)
    path.with_suffix(".bin").unlink()
    for keep in (True, False):
        with pytest.raises(ModelError, match=r"network.xml: expected a network that OpenVINO can run"):
            openvino_forward(path, keep=keep)


def test_a_file_exchanged_meanwhile_is_not_kept_for_the_other(
    exported_model: Path, write_model: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    from glomtile.inference.export import export

    other = write_model(seed=4)
    export(other)
    path = Path(shutil.copy(exported_model / "model.onnx", tmp_path))

    class Exchanging(Counting):
        def read_model(self, asked: Path) -> Any:
            shutil.copy(other / "model.onnx", asked)
            return self._core.read_model(asked)

    compiled.kept_network(Exchanging(), path, SETTINGS)
    assert not cache.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
def test_what_others_could_have_written_is_not_read(exported_model: Path, cache: Path) -> None:
    path = exported_model / "model.onnx"
    assert [compilations(path), compilations(path)] == [1, 0]
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700
    kept.chmod(0o666)
    assert [compilations(path), compilations(path)] == [1, 0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a place")
def test_a_pipe_is_not_waited_for(exported_model: Path, cache: Path) -> None:
    path = exported_model / "model.onnx"
    compilations(path)
    (kept,) = cache.iterdir()
    kept.unlink()
    os.mkfifo(kept)
    assert [compilations(path), compilations(path)] == [1, 0]


def test_a_cache_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOMTILE_CACHE_DIR", "~/a")
    assert user_cache() == tmp_path / "a"
    monkeypatch.setenv("GLOMTILE_CACHE_DIR", "b")
    assert user_cache() == tmp_path / "b"
    monkeypatch.delenv("GLOMTILE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "c")
    assert user_cache() == tmp_path / ".cache/glomtile"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert user_cache() == tmp_path / "c/glomtile"


def test_large_networks_are_not_kept(
    exported_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_LARGEST_BYTES", 1000)
    answer(exported_model)
    assert not cache.exists()


def test_the_least_used_goes_first(
    exported_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_KEPT", 2)
    path = exported_model / "model.onnx"
    first, second, third = ({**SETTINGS, "INFERENCE_NUM_THREADS": str(number)} for number in (1, 2, 3))
    compilations(path, first)
    (kept,) = cache.iterdir()
    os.utime(kept, (1, 1))
    compilations(path, second)
    (other,) = set(cache.iterdir()) - {kept}
    os.utime(other, (2, 2))
    (cache / ".being-written.compiled").write_bytes(b"by another process")
    assert compilations(path, first) == 0  # used last now
    assert compilations(path, third) == 1
    assert compilations(path, first) == 0
    assert compilations(path, second) == 1
    assert len(list(cache.iterdir())) == 3


def test_processes_find_it_in_the_home_folder(exported_model: Path, tmp_path: Path) -> None:
    code = f"from glomtile import Segmenter\nSegmenter.load({str(exported_model)!r}, runtime='openvino')\n"
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    for name in ("GLOMTILE_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path.parent for path in files] == [tmp_path / ".cache" / "glomtile" / "compiled"]
