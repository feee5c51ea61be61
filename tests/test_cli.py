"""The command line: what is printed where, and which code it ends with."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import glomtile
import glomtile.cli.main
import glomtile.evaluation.score
from glomtile.__main__ import main
from glomtile.cli.flags import NO_FLAGS, Flags, parse_global_options
from glomtile.cli.main import run
from glomtile.cli.progress import LINE_EVERY_S, PlainProgress, progress_display, shown
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError, InputError
from glomtile.formatting import duration
from glomtile.io.images import write_png
from glomtile.io.masks import read_mask
from glomtile.palette import GLOMERULI
from glomtile.system import quiet_import
from glomtile.types import SILENT

COMMANDS = (
    "prepare", "stats", "train", "evaluate", "crossval", "infer", "tiled-infer", "inspect", "segment",
    "score", "report", "export", "ensemble", "import-weights", "demo", "info", "config",
)  # fmt: skip
SCORE = ["score", "a", "b", "-o", "c"]


def _let_score(monkeypatch: pytest.MonkeyPatch, what: BaseException | SimpleNamespace) -> dict[str, object]:
    """Replace the verb behind ``glomtile score``; what it was called with is returned."""
    called: dict[str, object] = {}

    def verb(*paths: Path, **options: object) -> SimpleNamespace:
        called.update(options, paths=paths)
        if isinstance(what, BaseException):
            raise what
        return what

    monkeypatch.setattr(glomtile.evaluation.score, "score", verb)
    return called


def _write_card(folder: Path) -> None:
    """What there is to see of a trained model before its network is loaded."""
    card = ModelCard(
        network=ModelSettings(), classes=ModelCard.classes_of(GLOMERULI), tile_px=(64, 64), stride_px=16,
        context_px=0,
    )  # fmt: skip
    (folder / "models" / "best").mkdir(parents=True)
    (folder / "models" / "best" / "model.json").write_text(card.to_json())


def _run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


# --- help ---------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = re.findall(r"^  ([a-z-]+)  ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE)
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", [*COMMANDS, "config check", "config convert", "config init"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"Usage: glomtile {command}" in capsys.readouterr().out


def test_help_of_a_command_is_not_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_the_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "glomtile", "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Usage: glomtile ")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
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
        (
            ["segment", "a.png", "-o", "c", "--runtime", "foo"],
            "error: --runtime: expected one of auto",
        ),
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
def test_a_wrong_line_ends_with_2_and_says_why(
    line: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    told = capsys.readouterr()
    assert word in told.out + told.err
    assert "Traceback" not in told.err


def test_mpp_with_masks_and_too_few_images_to_split_name_their_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
def test_an_error_of_ours_is_one_line_and_its_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _let_score(monkeypatch, error)
    assert run(SCORE) == code
    told = capsys.readouterr()
    assert told.err == f"error: {error}\n"
    assert told.out == ""


def test_an_unexpected_error_is_short_and_says_how_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _let_score(monkeypatch, ValueError("bad\n" + "x" * 5000))
    assert run(SCORE) == 1
    told = capsys.readouterr().err
    assert told.startswith("unexpected error: ValueError: bad xxx")
    assert "glomtile --debug score a b -o c" in told
    assert len(told) < 700
    assert "Traceback" not in told


def test_an_unexpected_error_is_told_without_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _let_score(monkeypatch, ValueError("\x1b[1mException\x1b[0m in \x1b[38;5;4mlayer\x1b[0m"))
    assert run(SCORE) == 1
    assert capsys.readouterr().err.startswith("unexpected error: ValueError: Exception in layer\n")


def test_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _let_score(monkeypatch, ValueError("bad"))
    assert run([*SCORE, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_stopping_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _let_score(monkeypatch, KeyboardInterrupt())
    assert run(SCORE) == 130
    assert capsys.readouterr().err.endswith("stopped\n")


STOPPED_AT_WORK = """
import sys, threading
import glomtile.cli
from glomtile.__main__ import main

def under_way():
    sys.stdin.readline()
    print("its work was done", flush=True)

def run(argv):
    threading.Thread(target=under_way).start()
    return 130

glomtile.cli.run = run
code = main()
print("stopped", flush=True)
sys.exit(code)
"""


def test_who_stops_twice_waits_for_what_threads_have_under_way() -> None:
    """The interpreter did not: "terminate called without an active exception" came of a thread in OpenCV."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", STOPPED_AT_WORK]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "stopped\n"
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate("go on\n", timeout=60)
    assert (stopped.returncode, out, err) == (130, "its work was done\n", "")


def test_stopping_while_the_command_is_being_loaded_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended with a traceback through the imports."""

    def load(argv: list[str]) -> int:
        raise KeyboardInterrupt

    ignored: list[object] = []
    monkeypatch.setattr(glomtile.cli, "run", load)
    monkeypatch.setattr(signal, "signal", lambda *told: ignored.append(told))
    assert main() == 130
    assert capsys.readouterr().err == "stopped\n"
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]


def test_an_error_that_stopping_led_to_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a compiled module that was stopped amid its import: "ImportError: initialization failed"."""
    problem = ImportError("initialization failed")
    problem.__cause__ = KeyboardInterrupt()
    _let_score(monkeypatch, problem)
    assert run(SCORE) == 130
    assert capsys.readouterr().err.endswith("stopped\n")


def test_a_stopped_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import glomtile.training.train

    def verb(*_: object, resume: bool, progress: PlainProgress) -> None:
        assert not resume
        raise KeyboardInterrupt

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    monkeypatch.setattr(glomtile.training.train, "train", verb)
    assert run(["train", str(config)]) == 130
    assert re.fullmatch(r".*--resume.*\nstopped\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["evaluate", "infer", "tiled-infer"])
def test_a_model_that_is_not_there_is_missed_before_the_backend_is_woken(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import glomtile.cli.commands

    def wake() -> None:
        raise AssertionError("the backend takes seconds to wake")

    monkeypatch.setattr(glomtile.cli.commands, "wake_backend", wake)
    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    assert run([command, str(config)]) == 2
    assert (
        f"{tmp_path / 'models' / 'best'}: expected a model folder with model.json" in capsys.readouterr().err
    )


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_place_that_can_hold_no_results_is_a_wrong_line_and_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    write_png(picture, np.full((64, 64, 3), 240, np.uint8), 2.0)
    for place, reason in (
        ("/proc/nope", "there is no such folder and none can be made"),
        (str(picture / "below"), "a part of the path is a file, not a folder"),
    ):
        assert run(["segment", str(picture), "-o", place]) == 2
        told = capsys.readouterr().err
        assert f"expected to write here, got: {reason}" in told
        assert "Errno" not in told


def test_results_that_would_end_with_the_command_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said done, and nothing was anywhere."""
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    assert run(["segment", str(tmp_path / "a.png"), "--mpp", "0.5", "-o", "memory://x"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: memory://x: expected a folder, or an address that lasts")


def test_a_lower_threshold_calls_more_pixels_glomerulus(exported_model: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(60, 240, (6, 6, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    write_png(tmp_path / "a.png", noise)
    line = ["segment", str(tmp_path / "a.png"), "-m", str(exported_model), "--mpp", "2", "--quiet"]
    pixels = []
    for told in ("0.05", "0.95"):
        out = tmp_path / told
        assert run([*line, "-o", str(out), "--threshold", told, "--runtime", "openvino"]) == 0
        assert json.loads((out / "run.json").read_text("utf-8"))["settings"]["threshold"] == float(told)
        pixels.append(int((read_mask(out / "masks" / "a.png", GLOMERULI, datatype="indexed") > 0).sum()))
    assert pixels[0] > pixels[1]


def test_a_file_given_as_a_model_is_not_said_to_lie_in_one_where_it_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.h5").write_bytes(b"x")
    line = ["segment", "a.png", "-o", str(tmp_path / "out"), "-m", str(tmp_path / "best.h5")]
    assert run(line) == 2
    told = capsys.readouterr().err
    assert "expected a model folder, got a file (a model folder holds model.json and model.keras)" in told
    (tmp_path / "model.json").write_text("{}")
    assert run(line) == 2
    assert f"(perhaps {tmp_path})" in capsys.readouterr().err


def test_masks_of_inexact_colours_are_scored_with_a_tolerance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = (251, 4, 3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "1.png", mask)
    line = ["score", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out")]
    assert run(line) == 1
    assert "--tolerance" in capsys.readouterr().err
    assert run([*line, "--images", str(tmp_path / "a"), "--tolerance", "8"]) == 0
    told = capsys.readouterr()
    assert "report.html" in told.out
    assert "warning" not in told.err
    assert '"tolerance": 8' in (tmp_path / "out" / "run.json").read_text()


def test_info_of_a_slide_tells_its_facts_and_misses_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    write_png(picture, np.full((48, 64, 3), 240, np.uint8), 0.5)
    assert run(["info", str(picture)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{picture}\n  kind          PNG\n  size          64 x 48 px\n")
    assert "µm per pixel  0.5 (the picture's resolution)" in told
    assert "level 0       64 x 48 px, 1/1" in told
    assert run(["info", str(picture), str(tmp_path / "no.svs")]) == 1
    assert capsys.readouterr().err.endswith("no.svs: expected a slide or image, the file does not exist\n")


def test_failed_inputs_are_listed_last_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import glomtile.evaluation.evaluate

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    _write_card(tmp_path)
    outcome = SimpleNamespace(done=[Path("out/a.png")], failed=[(Path("b.png"), "truncated")])
    monkeypatch.setattr(glomtile.evaluation.evaluate, "tiled_infer", lambda *_, **__: outcome)
    assert run(["tiled-infer", str(config)]) == 1
    told = capsys.readouterr()
    assert told.out == "out/a.png\n"
    assert told.err.endswith("failed: 1\n  b.png: truncated\n")


def test_results_go_to_stdout_and_progress_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(*_: object, progress: PlainProgress, **__: object) -> SimpleNamespace:
        progress.start("score", 2)
        progress.note("a note")
        progress.warn("look out")
        return SimpleNamespace(paths=[Path("c/scores.json")])

    monkeypatch.setattr(glomtile.evaluation.score, "score", verb)
    assert run(SCORE) == 0
    told = capsys.readouterr()
    assert told.out == "c/scores.json\n"
    assert told.err == "a note\nwarning: look out\n"


def test_options_reach_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    called = _let_score(monkeypatch, SimpleNamespace(paths=[]))
    assert run([*SCORE, "--rgb-map", "{(0,0,0):0,(0,255,0):1}", "--mpp", "0.5", "--against", "d"]) == 0
    assert called["paths"] == (Path("a"), Path("b"), Path("c"))
    assert called["palette"].to_rgb_map() == {(0, 0, 0): 0, (0, 255, 0): 1}
    assert (called["mpp"], called["against"]) == (0.5, Path("d"))


@pytest.mark.parametrize("place", [0, 2, 5])
def test_switches_may_stand_anywhere(place: int) -> None:
    line = list(SCORE)
    line.insert(place, "-q")
    assert parse_global_options(line) == (SCORE, Flags(quiet=True))
    assert parse_global_options([*SCORE, "--", "-q"]) == ([*SCORE, "--", "-q"], NO_FLAGS)
    line[place : place + 1] = ["-v", "--json", "--debug"]
    assert parse_global_options(line) == (SCORE, Flags(debug=True, verbose=True, json=True))


# --- config -------------------------------------------------------------------------------------------


def test_config_check_tells_everything_and_ends_with_2_only_for_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd.config"
    odd.write_text("[train]\nepohs = 3\nbatch_size = 2\nbatch_size = 4\n")
    assert run(["config", "check", str(odd)]) == 0
    assert capsys.readouterr().out.count("warning: ") == 2
    wrong = tmp_path / "wrong.config"
    wrong.write_text('[train]\nepohs = 3\nepochs = "ten"\nmodel_dir = open("x")\n')
    assert run(["config", "check", str(wrong)]) == 2
    told = capsys.readouterr().out
    assert (told.count("warning: "), told.count("error: ")) == (1, 2)


def test_config_init_begins_a_config_that_converts_and_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "init"]) == 0
    begun = tmp_path / "begun.toml"
    begun.write_text(capsys.readouterr().out)
    assert run(["config", "check", str(begun)]) == 0
    capsys.readouterr()
    assert run(["config", "convert", str(begun)]) == 0
    converted = tmp_path / "converted.toml"
    converted.write_text(capsys.readouterr().out)
    assert run(["config", "check", str(converted)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"{converted}: no findings\n")
    assert run(["config", "check", str(converted), "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_config_check_and_convert_take_settings_of_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "a.toml"
    config.write_text("[train]\nepochs = 3\n")
    assert run(["config", "convert", str(config), "--set", "train.epochs=7"]) == 0
    assert "epochs = 7" in capsys.readouterr().out
    assert run(["config", "check", str(config), "--set", "train.epochs=ten"]) == 2
    assert "--set" in capsys.readouterr().out


def test_findings_of_a_config_are_warned_of_before_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import glomtile.evaluation.evaluate

    odd = tmp_path / "odd.toml"
    odd.write_text("[train]\nepohs = 3\n")
    _write_card(tmp_path)
    outcome = SimpleNamespace(done=[], failed=[])
    monkeypatch.setattr(glomtile.evaluation.evaluate, "infer", lambda *_, **__: outcome)
    assert run(["infer", str(odd)]) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert "epochs" in told


# --- progress -----------------------------------------------------------------------------------------


def test_a_log_gets_a_status_line_now_and_then() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now)
    progress.start("tiles", 100)
    for _ in range(100):
        now += LINE_EVERY_S / 20
        progress.advance(loss=0.25)
    progress.start("masks", 10)
    progress.note("done")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == f"tiles: 20 of 100, 1.3/s, {duration(4 * LINE_EVERY_S)} left · loss 0.25"
    assert lines[-2:] == [f"tiles: 100 of 100 in {duration(5 * LINE_EVERY_S)} · loss 0.25", "done"]
    assert len(lines) == 6


def test_a_log_tells_nothing_of_quick_stages_and_the_end_of_long_ones() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now)
    progress.start("images", 8)
    progress.advance(8)
    progress.start("drawing")
    now += 2 * LINE_EVERY_S
    progress.start("masks", 2)
    now += LINE_EVERY_S / 2
    progress.advance(2)
    progress.close()
    progress.close()
    assert stream.getvalue() == f"drawing: {duration(2 * LINE_EVERY_S)}\n"


def test_a_quiet_run_tells_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "from glomtile.cli import flags; from glomtile.cli.progress import watching\n"
        "flags.FLAGS.set(flags.Flags(quiet=True))\n"
        "with watching() as p: p.start('a', 2); p.advance(); p.note('n'); p.warn('w')"
    )
    assert _run_python(code).stderr == "warning: w\n"


def _read_all(terminal: int) -> str:
    """What is written to a pseudo-terminal until its other end is closed, which is an error on Linux."""
    pieces = []
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:
        while piece := stream.read(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_gets_a_live_bar_with_titles_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    master, slave = os.openpty()
    with ThreadPoolExecutor(1) as reader:
        shown_text = reader.submit(_read_all, master)
        with os.fdopen(slave, "w") as terminal, progress_display(terminal) as progress:
            progress.start("reading [images]", 3)
            progress.advance(2, loss=0.5)
            progress.note("a note [bold]")
            progress.start("second stage")
            progress.advance()
        told = shown_text.result(timeout=60)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told)
    assert "reading [images]" in plain
    assert "a note [bold]" in plain
    assert "second stage" in plain
    assert "\x1b[" in told


def test_every_display_is_a_progress() -> None:
    members = [name for name in dir(SILENT) if not name.startswith("_")]
    assert members == ["advance", "note", "start", "warn"]
    assert all(callable(getattr(PlainProgress, name)) for name in members)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1:00 min"),
        (61, "1:01 min"),
        (3599.7, "1:00 h"),
        (7260, "2:01 h"),
    ],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_figures_are_rounded_and_words_are_not() -> None:
    assert (
        shown({"loss": 0.123456, "epochs": 3, "image": "a.png"}) == " · loss 0.1235 · epochs 3 · image a.png"
    )


# --- backend ------------------------------------------------------------------------------------------


def test_without_keras_the_command_says_what_to_install(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    code = (
        "import sys; sys.modules['keras'] = None\n"
        f"from glomtile.cli import run; sys.exit(run(['train', {str(config)!r}]))"
    )
    result = _run_python(code)
    assert result.returncode == 2
    assert "pip install 'glomtile[cpu]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_info_works_without_keras() -> None:
    code = "import sys; sys.modules['keras'] = None\nfrom glomtile.cli import run; sys.exit(run(['info']))"
    result = _run_python(code)
    assert result.returncode == 0
    assert "pip install 'glomtile[cpu]'" in result.stdout


def test_info_names_versions_backend_devices_and_formats(capfd: pytest.CaptureFixture[str]) -> None:
    import keras

    assert run(["info"]) == 0
    told = capfd.readouterr().out
    assert re.search(rf"^keras +{re.escape(keras.__version__)}$", told, re.MULTILINE)
    assert re.search(rf"^backend +{keras.backend.backend()}$", told, re.MULTILINE)
    assert re.search(r"^devices +\S*cpu", told, re.MULTILINE | re.IGNORECASE)
    assert re.search(r"^images .*\.png", told, re.MULTILINE)
    assert re.search(r"^openvino +\d", told, re.MULTILINE)
    assert re.search(r"^runtimes +openvino, keras$", told, re.MULTILINE)
    assert re.search(r"^bundled model +\S", told, re.MULTILINE)


def test_a_greeting_is_dropped_and_an_error_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_import():
        os.write(2, b"I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"libcuda.so.1: cannot open shared object file\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libcuda.so.1: cannot open shared object file\nafter\n"
