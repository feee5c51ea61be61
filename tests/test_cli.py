"""The command line: what is printed where, and which code it ends with."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

import glomtile
import glomtile.verbs.score
from glomtile.cli import run
from glomtile.cli.backend import greeting_held_back
from glomtile.cli.flags import NO_FLAGS, Flags, take_flags
from glomtile.cli.progress import LINE_EVERY_S, PlainProgress, duration, shown, watching
from glomtile.errors import ConfigError, InputError
from glomtile.types import SILENT

COMMANDS = (
    "prepare", "stats", "train", "evaluate", "crossval", "infer", "tiled-infer", "inspect", "segment",
    "score", "report", "export", "import-weights", "demo", "info", "config",
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

    monkeypatch.setattr(glomtile.verbs.score, "score", verb)
    return called


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
        (["score", "a", "b", "-o", "c", "--rgb-map", "open('x')"], "--rgb-map"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "{(0,0,0):0"], "--rgb-map"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "[1, 2]"], "--rgb-map"),
        (["score", "a", "b", "-o", "c", "--rgb-map", "{(0,0,0):0,(255,0,0):2}"], "class numbers"),
        (["segment", "a.png", "-o", "c", "--workers", "2", "--scheduler", "tcp://b:1"], "--workers"),
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


def test_a_stopped_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import glomtile.verbs.train

    def verb(*_: object, resume: bool, progress: PlainProgress) -> None:
        assert not resume
        raise KeyboardInterrupt

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    monkeypatch.setattr(glomtile.verbs.train, "train", verb)
    assert run(["train", str(config)]) == 130
    assert re.fullmatch(r".*--resume.*\nstopped\n", capsys.readouterr().err)


def test_failed_inputs_are_listed_last_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import glomtile.verbs.infer

    config = tmp_path / "a.toml"
    config.write_text("[model]\n")
    outcome = SimpleNamespace(done=[Path("out/a.png")], failed=[(Path("b.png"), "truncated")])
    monkeypatch.setattr(glomtile.verbs.infer, "tiled_infer", lambda *_, **__: outcome)
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

    monkeypatch.setattr(glomtile.verbs.score, "score", verb)
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
    assert take_flags(line) == (SCORE, Flags(quiet=True, debug=False))
    assert take_flags([*SCORE, "--", "-q"]) == ([*SCORE, "--", "-q"], NO_FLAGS)


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
    import glomtile.verbs.infer

    odd = tmp_path / "odd.toml"
    odd.write_text("[train]\nepohs = 3\n")
    outcome = SimpleNamespace(done=[], failed=[])
    monkeypatch.setattr(glomtile.verbs.infer, "infer", lambda *_, **__: outcome)
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
    assert lines[0] == f"tiles: 20 of 100, {duration(4 * LINE_EVERY_S)} left · loss 0.25"
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
        with os.fdopen(slave, "w") as terminal, watching(terminal) as progress:
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
    with greeting_held_back():
        os.write(2, b"I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"libcuda.so.1: cannot open shared object file\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libcuda.so.1: cannot open shared object file\nafter\n"
