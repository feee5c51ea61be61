"""The command line: output, errors, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import glomtile
import glomtile.cli.main
import glomtile.evaluation.score
import glomtile.report.build
from glomtile.__main__ import main
from glomtile.cli.console import NO_FLAGS, Flags, parse_global_options
from glomtile.cli.main import run
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError, InputError
from glomtile.io.images import write_png
from glomtile.io.masks import read_mask
from glomtile.palette import GLOMERULI
from glomtile.system import quiet_import

COMMANDS = (
    "prepare", "stats", "train", "evaluate", "crossval", "infer", "tiled-infer", "inspect", "segment",
    "score", "report", "export", "ensemble", "import-weights", "demo", "networks", "info", "config",
)  # fmt: skip
SCORE = ["score", "a", "b", "-o", "c"]


def _replace_score(monkeypatch, what):
    """Replace the function of ``glomtile score``; return the arguments that it receives."""
    called: dict[str, object] = {}

    def replaced(*paths, **options):
        called.update(options, paths=paths)
        if isinstance(what, BaseException):
            raise what
        return what

    monkeypatch.setattr(glomtile.evaluation.score, "score", replaced)
    return called


def _write_card(folder):
    card = ModelCard(
        network=ModelSettings(), classes=ModelCard.classes_of(GLOMERULI), tile_px=(64, 64), stride_px=16,
        context_px=0,
    )  # fmt: skip
    (folder / "models" / "best").mkdir(parents=True)
    (folder / "models" / "best" / "model.json").write_text(card.to_json())


def _run_python(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


# --- help ---------------------------------------------------------------------------------------------


def test_help_names_every_command_and_cuts_none_short(capsys):
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert tuple(re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)) == COMMANDS
    assert "..." not in listed


@pytest.mark.parametrize("command", [*COMMANDS, "config check", "config convert", "config init"])
def test_every_command_explains_itself(command, capsys):
    assert run([*command.split(), "--help"]) == 0
    assert f"Usage: glomtile {command}" in capsys.readouterr().out


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "glomtile", "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Usage: glomtile ")


def test_the_version_is_printed(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"glomtile {glomtile.__version__}\n"


# --- exit codes and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (["scor"], "Did you mean 'score'"),
        (["score", "a", "b"], "--out"),
        (["prepare", "a", "b", "-o", "c", "--tile", "x"], "--tile"),
        (["prepare", "a", "b", "-o", "c", "--keep-empty", "2"], "--keep-empty"),
        (["prepare", "a", "b", "-o", "c", "--keep-empty", "nan"], "expected 0 to 1, got nan"),
        (["prepare", "a", "b", "-o", "c", "--split", "nan", "0.5", "0.5"], "expected 0 to 1, got nan"),
        (["segment", "a", "-o", "c", "--mpp", "nan"], "expected 0.05 to 20 µm per pixel, got nan"),
        (["segment", "a", "-o", "c", "--mpp", "0"], "expected 0.05 to 20 µm per pixel, got 0.0"),
        (["segment", "a", "-o", "c", "--threshold", "0"], "expected a number between 0 and 1, got 0.0"),
        (["segment", "a", "-o", "c", "--threshold", "1"], "expected a number between 0 and 1, got 1.0"),
        (["segment", "a", "-o", "c", "--threshold", "nan"], "expected a number between 0 and 1, got nan"),
        (["score", "a", "b", "-o", "c", "--mpp", "inf"], "expected 0.05 to 20 µm per pixel, got inf"),
        (["segment", "a.png", "-o", "c", "--runtime", "foo"], "error: --runtime: expected one of auto"),
        (["segment", "a.png", "-o", "c", "--window", "16"], "error: --window: expected more than twice"),
        (["segment", "a.png", "-o", "c", "-m", "no-such-folder"], "no-such-folder: expected a model folder"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "open('x')"], "--rgb-map"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "{(0,0,0):0"], "--rgb-map"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "[1, 2]"], "--rgb-map"),
        (
            ["score", "a", "b", "-o", "c", "--rgb-map", "{(0,0,0):0,(255,0,0):2}"],
            "--rgb-map: expected the class",
        ),
        (["score", "a", "b", "-o", "c", "--rgb-map", "{0:1}"], "--rgb-map: expected three numbers"),
        (
            ["score", "a", "b", "-o", "c", "--rgb-map", "{(0,0,0):0,(255,0,0):'a'}"],
            "--rgb-map: expected a whole",
        ),
        (["score", "a", "b", "-o", "c", "--rgb-map", "[" * 5000], "--rgb-map: expected colours"),
        (["prepare", "a", "b", "-o", "c", "--rgb-map", "{(0,0):0}"], "--rgb-map: expected three numbers"),
        (["segment", "a.png", "-o", "c", "--workers", "2", "--scheduler", "tcp://b:1"], "--workers"),
        (
            ["segment", "a.png", "-o", "c", "--workers", "2", "--scheduler", "tcp://b:1", "--dry-run"],
            "--workers",
        ),
        (["segment", "a.png", "-o", "", "--dry-run"], "--out"),
        (["prepare", "a", "b", "-o", "c", "--border", "x"], "error: --border: expected one of reflect, even"),
        (["prepare", "a", "b", "-o", "c", "--split", "1", "1", "1"], "error: --split: expected three shares"),
        (
            ["prepare", "a", "b", "-o", "c", "--split", "1", "0", "0", "--mini-test", "d"],
            "error: --mini-test: expected none",
        ),
        (["train", "no-such.config"], "no-such.config"),
        (["config", "check", "no-such.config"], "no-such.config"),
    ],
)
def test_a_wrong_line_ends_with_2_and_the_reason(line, word, capsys):
    assert run(line) == 2
    seen = capsys.readouterr()
    assert word in seen.out + seen.err
    assert "Traceback" not in seen.err


def test_mpp_with_masks_and_too_few_images_to_split_name_their_options(tmp_path, capsys):
    for kind in ("images", "masks"):
        write_png(tmp_path / kind / "a.png", np.zeros((70, 90, 3), np.uint8))
    line = ["prepare", str(tmp_path / "images"), str(tmp_path / "masks"), "-o", str(tmp_path / "set")]
    assert run([*line, "--mpp", "0.5"]) == 2
    assert "error: --mpp: expected none, as it goes with GeoJSON files only" in capsys.readouterr().err
    assert run(line) == 2
    assert "error: --split: expected at least 3 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("a.png", "expected RGB, got 16 bit"), 1), (ConfigError("x", "no"), 2)]
)
def test_an_error_is_one_line_and_its_code(error, code, monkeypatch, capsys):
    _replace_score(monkeypatch, error)
    assert run(SCORE) == code
    seen = capsys.readouterr()
    assert seen.err == f"error: {error}\n"
    assert seen.out == ""


def test_an_unexpected_error_is_short_without_colours_and_requests_a_report(monkeypatch, capsys):
    _replace_score(monkeypatch, ValueError("\x1b[1mbad\x1b[0m\n" + "x" * 5000))
    assert run(SCORE) == 1
    seen = capsys.readouterr().err
    assert seen.startswith("unexpected error: ValueError: bad xxx")
    assert "glomtile --debug score a b -o c" in seen
    assert len(seen) < 700
    assert "Traceback" not in seen


def test_debug_shows_where_an_error_came_from(monkeypatch, capsys):
    _replace_score(monkeypatch, ValueError("bad"))
    assert run([*SCORE, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_stopping_ends_with_130_also_within_an_import(monkeypatch, capsys):
    stopped_import = ImportError("initialization failed")
    stopped_import.__cause__ = KeyboardInterrupt()
    for problem in (KeyboardInterrupt(), stopped_import):
        _replace_score(monkeypatch, problem)
        assert run(SCORE) == 130
        assert capsys.readouterr().err.endswith("stopped\n")


STOPPED_AT_WORK = """
import sys, threading
import glomtile.cli.main
from glomtile.__main__ import main

def work():
    sys.stdin.readline()
    print("work done", flush=True)

def run(argv):
    threading.Thread(target=work).start()
    return 130

glomtile.cli.main.run = run
code = main()
print("stopped", flush=True)
sys.exit(code)
"""


def test_a_second_interrupt_waits_for_running_threads():
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", STOPPED_AT_WORK]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "stopped\n"
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate("go on\n", timeout=60)
    assert (stopped.returncode, out, err) == (130, "work done\n", "")


def test_stopping_during_import_is_no_error(monkeypatch, capsys):
    def load(argv):
        raise KeyboardInterrupt

    ignored: list[object] = []
    monkeypatch.setattr(glomtile.cli.main, "run", load)
    monkeypatch.setattr(signal, "signal", lambda *call: ignored.append(call))
    assert main() == 130
    assert capsys.readouterr().err == "stopped\n"
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]


def test_a_stopped_training_prints_how_to_continue(monkeypatch, tmp_path, capsys):
    import glomtile.training.train

    def replaced(*_, resume, progress):
        assert not resume
        raise KeyboardInterrupt

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    monkeypatch.setattr(glomtile.training.train, "train", replaced)
    assert run(["train", str(config)]) == 130
    assert re.fullmatch(r".*--resume.*\nstopped\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["evaluate", "infer", "tiled-infer"])
def test_a_missing_model_is_reported_before_the_backend_is_imported(command, tmp_path, capsys, monkeypatch):
    import glomtile.cli.commands

    def imported():
        raise AssertionError("imported too early")

    monkeypatch.setattr(glomtile.cli.commands, "import_backend", imported)
    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    assert run([command, str(config)]) == 2
    assert (
        f"{tmp_path / 'models' / 'best'}: expected a model folder with model.json" in capsys.readouterr().err
    )


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_an_impossible_output_folder_is_a_usage_error(tmp_path, capsys):
    image = tmp_path / "a.png"
    write_png(image, np.full((64, 64, 3), 240, np.uint8), 2.0)
    for place, reason in (
        ("/proc/nope", "there is no such folder and none can be made"),
        (str(image / "below"), "a part of the path is a file, not a folder"),
    ):
        assert run(["segment", str(image), "-o", place]) == 2
        seen = capsys.readouterr().err
        assert f"expected to write here, got: {reason}" in seen
        assert "Errno" not in seen


def test_outputs_in_memory_are_refused(tmp_path, capsys):
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    assert run(["segment", str(tmp_path / "a.png"), "--mpp", "0.5", "-o", "memory://x"]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: memory://x: expected a folder, or an address that lasts")


def test_a_lower_threshold_gives_more_foreground(exported_model, tmp_path):
    noise = np.random.default_rng(3).integers(60, 240, (6, 6, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    write_png(tmp_path / "a.png", noise)
    line = ["segment", str(tmp_path / "a.png"), "-m", str(exported_model), "--mpp", "2", "--quiet"]
    pixels = []
    for seen in ("0.05", "0.95"):
        out = tmp_path / seen
        assert run([*line, "-o", str(out), "--threshold", seen, "--runtime", "openvino"]) == 0
        assert json.loads((out / "run.json").read_text("utf-8"))["settings"]["threshold"] == float(seen)
        pixels.append(int((read_mask(out / "masks" / "a.png", GLOMERULI, datatype="indexed") > 0).sum()))
    assert pixels[0] > pixels[1]


def test_a_file_in_place_of_a_model_folder_is_named(tmp_path, capsys):
    (tmp_path / "best.h5").write_bytes(b"x")
    line = ["segment", "a.png", "-o", str(tmp_path / "out"), "-m", str(tmp_path / "best.h5")]
    assert run(line) == 2
    seen = capsys.readouterr().err
    assert "expected a model folder, got a file (a model folder holds model.json and model.keras)" in seen
    (tmp_path / "model.json").write_text("{}")
    assert run(line) == 2
    assert f"(perhaps {tmp_path})" in capsys.readouterr().err


def test_masks_of_inexact_colours_are_scored_with_a_tolerance(tmp_path, capsys):
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = (251, 4, 3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "1.png", mask)
    line = ["score", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out")]
    assert run(line) == 1
    assert "--tolerance" in capsys.readouterr().err
    assert run([*line, "--images", str(tmp_path / "a"), "--tolerance", "8"]) == 0
    seen = capsys.readouterr()
    assert "report.html" in seen.out
    assert "warning" not in seen.err
    assert '"tolerance": 8' in (tmp_path / "out" / "run.json").read_text()


def test_info_of_a_slide_prints_its_facts(tmp_path, capsys):
    image = tmp_path / "a.png"
    write_png(image, np.full((48, 64, 3), 240, np.uint8), 0.5)
    assert run(["info", str(image)]) == 0
    seen = capsys.readouterr().out
    assert seen.startswith(f"{image}\n  kind          PNG\n  size          64 x 48 px\n")
    assert "µm per pixel  0.5 (the image's resolution)" in seen
    assert "level 0       64 x 48 px, 1/1" in seen
    assert run(["info", str(image), str(tmp_path / "no.svs")]) == 1
    assert capsys.readouterr().err.endswith("no.svs: expected a slide or image, the file does not exist\n")


def test_failed_inputs_are_listed_last_and_end_with_1(monkeypatch, tmp_path, capsys):
    import glomtile.evaluation.evaluate

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    _write_card(tmp_path)
    result = SimpleNamespace(done=[Path("out/a.png")], failed=[(Path("b.png"), "truncated")])
    monkeypatch.setattr(glomtile.evaluation.evaluate, "tiled_infer", lambda *_, **__: result)
    assert run(["tiled-infer", str(config)]) == 1
    seen = capsys.readouterr()
    assert seen.out == "out/a.png\n"
    assert seen.err.endswith("failed: 1\n  b.png: truncated\n")


def test_results_go_to_stdout_and_progress_to_stderr(monkeypatch, capsys):
    def replaced(*_, progress, **__):
        progress.start("score", 2)
        progress.note("a note")
        progress.warn("careful")
        return SimpleNamespace(paths=[Path("c/scores.json")], folder=Path("c"))

    monkeypatch.setattr(glomtile.evaluation.score, "score", replaced)
    monkeypatch.setattr(glomtile.report.build, "write_report", lambda folder: folder / "report.html")
    assert run(SCORE) == 0
    seen = capsys.readouterr()
    assert seen.out == "c/scores.json\nc/report.html\n"
    assert seen.err == "a note\nwarning: careful\n"


def test_options_reach_the_function(monkeypatch):
    called = _replace_score(monkeypatch, SimpleNamespace(paths=[], folder=Path("c")))
    monkeypatch.setattr(glomtile.report.build, "write_report", lambda folder: folder / "report.html")
    assert run([*SCORE, "--rgb-map", "{(0,0,0):0,(0,255,0):1}", "--mpp", "0.5", "--against", "d"]) == 0
    assert called["paths"] == (Path("a"), Path("b"), Path("c"))
    assert called["palette"].to_rgb_map() == {(0, 0, 0): 0, (0, 255, 0): 1}
    assert (called["mpp"], called["against"]) == (0.5, Path("d"))


@pytest.mark.parametrize("place", [0, 2, 5])
def test_global_options_may_be_anywhere(place):
    line = list(SCORE)
    line.insert(place, "-q")
    assert parse_global_options(line) == (SCORE, Flags(quiet=True))
    assert parse_global_options([*SCORE, "--", "-q"]) == ([*SCORE, "--", "-q"], NO_FLAGS)
    line[place : place + 1] = ["-v", "--json", "--debug"]
    assert parse_global_options(line) == (SCORE, Flags(debug=True, verbose=True, json=True))


# --- config -------------------------------------------------------------------------------------------


def test_config_check_ends_with_2_only_for_errors(tmp_path, capsys):
    odd = tmp_path / "odd.config"
    odd.write_text("[train]\nepohs = 3\nbatch_size = 2\nbatch_size = 4\n")
    assert run(["config", "check", str(odd)]) == 0
    assert capsys.readouterr().out.count("warning: ") == 2
    wrong = tmp_path / "wrong.config"
    wrong.write_text('[train]\nepohs = 3\nepochs = "ten"\nmodel_dir = open("x")\n')
    assert run(["config", "check", str(wrong)]) == 2
    seen = capsys.readouterr().out
    assert (seen.count("warning: "), seen.count("error: ")) == (1, 2)


def test_the_config_of_init_converts_and_checks(tmp_path, capsys):
    assert run(["config", "init"]) == 0
    made = tmp_path / "made.toml"
    made.write_text(capsys.readouterr().out)
    assert run(["config", "check", str(made)]) == 0
    capsys.readouterr()
    assert run(["config", "convert", str(made)]) == 0
    converted = tmp_path / "converted.toml"
    converted.write_text(capsys.readouterr().out)
    assert run(["config", "check", str(converted)]) == 0
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("", f"{converted}: no findings\n")
    assert run(["config", "check", str(converted), "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_config_check_and_convert_take_overrides(tmp_path, capsys):
    config = tmp_path / "a.toml"
    config.write_text("[train]\nepochs = 3\n")
    assert run(["config", "convert", str(config), "--set", "train.epochs=7"]) == 0
    assert "epochs = 7" in capsys.readouterr().out
    assert run(["config", "check", str(config), "--set", "train.epochs=ten"]) == 2
    assert "--set" in capsys.readouterr().out


def test_findings_of_a_config_are_printed_first(monkeypatch, tmp_path, capsys):
    import glomtile.evaluation.evaluate

    odd = tmp_path / "odd.toml"
    odd.write_text("[train]\nepohs = 3\n")
    _write_card(tmp_path)
    result = SimpleNamespace(done=[], failed=[])
    monkeypatch.setattr(glomtile.evaluation.evaluate, "infer", lambda *_, **__: result)
    assert run(["infer", str(odd)]) == 0
    seen = capsys.readouterr().err
    assert seen.startswith("warning: ")
    assert "epochs" in seen


# --- backend ------------------------------------------------------------------------------------------


def test_without_keras_the_error_names_what_to_install(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    code = (
        "import sys; sys.modules['keras'] = None\n"
        f"from glomtile.cli.main import run; sys.exit(run(['train', {str(config)!r}]))"
    )
    result = _run_python(code)
    assert result.returncode == 2
    assert "pip install 'glomtile[cpu]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_info_works_without_keras():
    code = (
        "import sys; sys.modules['keras'] = None\nfrom glomtile.cli.main import run; sys.exit(run(['info']))"
    )
    result = _run_python(code)
    assert result.returncode == 0
    assert "pip install 'glomtile[cpu]'" in result.stdout


def test_info_names_versions_backend_devices_and_formats(capfd):
    import keras

    assert run(["info"]) == 0
    seen = capfd.readouterr().out
    assert re.search(rf"^keras +{re.escape(keras.__version__)}$", seen, re.MULTILINE)
    assert re.search(rf"^backend +{keras.backend.backend()}$", seen, re.MULTILINE)
    assert re.search(r"^devices +\S*cpu", seen, re.MULTILINE | re.IGNORECASE)
    assert re.search(r"^images .*\.png", seen, re.MULTILINE)
    assert re.search(r"^openvino +\d", seen, re.MULTILINE)
    assert re.search(r"^runtimes +openvino, keras$", seen, re.MULTILINE)
    assert re.search(r"^bundled model +\S", seen, re.MULTILINE)


def test_import_messages_are_dropped_and_errors_are_kept(capfd):
    with quiet_import():
        os.write(2, b"I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"libcuda.so.1: cannot open shared object file\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libcuda.so.1: cannot open shared object file\nafter\n"
