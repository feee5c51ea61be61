"""Commands in README and site: each runs on painted tissue, or states why not and at least parses.

`stage` provides small versions of ``images``, ``slides/``, ``biopsy.png``, ``models/best`` and so on.
The pages are run unchanged except that the stage's config replaces the one printed by ``config init``,
which readers fill in, and that the demo is small.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import tifffile
import typer
from typer.main import get_command

from docsite.blocks import Block, Command, commands, read_blocks, spans
from docsite.record import tidy
from docsite.reference import command_tree
from glomtile.cli.commands import app
from glomtile.cli.console import parse_global_options
from glomtile.cli.main import run
from glomtile.config.load import check_config
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI
from glomtile.synthetic import paint

pytestmark = pytest.mark.usefixtures("eager")

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
RUN = (
    "README.md",
    *(name for name in PAGES if name.startswith(("docs/howto", "docs/explanation", "docs/tut", "docs/outp"))),
)
LONG = {f"docs/howto/{name}.md" for name in ("fine-tune", "flexunet", "own-data", "resume")}
"""Pages that train more than one network; their commands have quicker tests of their own."""

FROM_NOTHING = "docs/tutorial.md"
"""The page that begins in an empty folder."""

TOOLS = {"cp", "touch", "cat", "ls", "head", "cut"}
"""Programs beside ours that a block may use."""

NOT_RUN = 9
"""Blocks that no test runs, on pages for readers; each says why. Measurements are counted apart."""

SMALL = """
[model]
model = "FlexUNet"
mpp = 2.0
image_width = 64
image_height = 64
base_filters = 4
num_layers = 3
norm = "batch"
loss = "dice_crossentropy"
metrics = ["foreground_dice"]

[dataset]
sampling = "crops"
image_mpp = 2.0
samples_per_epoch = 8

[train]
images_dir = "dataset/train/images"
masks_dir = "dataset/train/masks"
epochs = 1
epoch_change_infer = false
metrics = ["foreground_dice", "val_foreground_dice"]

[valid]
images_dir = "dataset/valid/images"
masks_dir = "dataset/valid/masks"

[test]
images_dir = "dataset/test/images"
masks_dir = "dataset/test/masks"

[infer]
images_dir = "mini_test/images"
output_dir = "mini_test_output"

[tiledinfer]
images_dir = "mini_test/images"
output_dir = "mini_test_output_tiled"
split_size = 64
overlapping = 16

[mask]
rgb_map = { "0,0,0" = 0, "255,0,0" = 1 }
class_names = ["background", "glomerulus"]
"""

INI = """
[model]
model        = "TensorFlowFlexUNet"
image_width  = 64
image_height = 64
base_filters = 4
num_layers   = 3
metrics      = ["dice_coef_multiclass"]
[train]
epochs       = 1
images_dir   = "./dataset/train/images/"
masks_dir    = "./dataset/train/masks/"
[valid]
images_dir   = "./dataset/valid/images/"
masks_dir    = "./dataset/valid/masks/"
[test]
images_dir   = "./dataset/test/images/"
masks_dir    = "./dataset/test/masks/"
[infer]
images_dir   = "./mini_test/images/"
output_dir   = "./mini_test_output/"
[tiledinfer]
overlapping  = 16
split_size   = 64
images_dir   = "./mini_test/images/"
output_dir   = "./mini_test_output_tiled/"
[mask]
rgb_map      = {(0,0,0):0, (255,0,0):1,}
"""

STEMS = [f"case{number}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, exported_model: Path) -> Path:
    """A folder with whatever the pages' commands begin with; each page works in a copy."""
    folder = tmp_path_factory.mktemp("stage")
    for number, stem in enumerate(STEMS):
        biopsy = paint(40 + number, (160, 160), 4.0)
        write_png(folder / "images" / f"{stem}.png", biopsy.image)
        write_mask(folder / "masks" / f"{stem}.png", biopsy.labels, GLOMERULI)
    lines = [f"{stem},patient{number // 2}" for number, stem in enumerate(STEMS)]
    (folder / "groups.csv").write_text("\n".join(["stem,group", *lines]), "utf-8")
    for name in ("predictions", "other_predictions"):
        shutil.copytree(folder / "masks", folder / name)
    for number in (1, 2, 3):
        image = paint(70 + number, (256, 256), 2.0).image
        write_png(folder / "slides" / f"case{number}.png", image, 2.0)
        (folder / "geojson").mkdir(exist_ok=True)
        (folder / "geojson" / f"case{number}.geojson").write_text(json.dumps(_outline()), "utf-8")
    write_png(folder / "biopsy.png", paint(70, (256, 256), 2.0).image)
    scan = paint(71, (256, 256), 2.0).image
    tifffile.imwrite(folder / "scan.svs", scan, photometric="rgb", tile=(64, 64), compression="jpeg")
    shutil.copytree(exported_model, folder / "models" / "best")
    (folder / "glomeruli.toml").write_text(SMALL, "utf-8")
    (folder / "train_eval_infer.config").write_text(INI, "utf-8")
    assert run(["prepare", f"{folder}/images", f"{folder}/masks", "-o", f"{folder}/dataset", "--tile", "64",
                "--mini-test", f"{folder}/mini_test", "--quiet"]) == 0  # fmt: skip
    return folder


def _outline() -> dict[str, Any]:
    ring = [[40, 40], [140, 40], [140, 140], [40, 140], [40, 40]]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": "glomerulus"}},
            }
        ],
    }


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo run in seconds: few patients, small images, a tiny network."""
    from glomtile.cli import demo

    settings = demo._settings()
    for key, value in {"epochs": 1, "samples_per_epoch": 8, "num_layers": 3, "base_filters": 4}.items():
        settings = re.sub(rf"^{key} = .*$", f"{key} = {value}", settings, flags=re.MULTILINE)
    monkeypatch.setattr(demo, "PATIENTS", 5)
    monkeypatch.setattr(demo, "IMAGES_PER_PATIENT", 1)
    monkeypatch.setattr(demo, "SIDE_PX", 256)
    monkeypatch.setattr(demo, "_settings", lambda: settings)


class Reader:
    """Somebody who types what a page says, in a folder of the page's own."""

    def __init__(self, folder: Path, stage: Path) -> None:
        self.folder, self.stage = folder, stage
        self.names: dict[str, Any] = {}

    def sh(self, block: Block) -> str:
        """Run the lines of a block; what they print on stdout."""
        said = ""
        for line in block.text.replace("\\\n", " ").splitlines():
            if "|" in line or (line.split()[:1] and line.split()[0] in TOOLS):
                said += self._tool(block, line)
                continue
            for command in commands(Block(block.page, block.line, "sh", line)):
                assert command.words[0] == "glomtile", f"{block}: nobody runs {command}: mark it as not run"
                printed = self._glomtile(block, command)
                if command.into:
                    (self.folder / command.into).write_text(printed, "utf-8")
                    if command.words[1:3] == ("config", "init"):
                        shutil.copy(self.stage / "glomeruli.toml", self.folder / command.into)
                else:
                    said += printed
        return said

    def _glomtile(self, block: Block, command: Command) -> str:
        out = io.StringIO()
        with redirect_stdout(out):
            code = run(command.words[1:])
        assert code == 0, f"{block}: {command} ended with {code}"
        return out.getvalue()

    def _tool(self, block: Block, line: str) -> str:
        assert {part.split()[0] for part in line.split("|")} <= TOOLS, f"{block}: nobody runs {line}"
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, text=True, check=True, capture_output=True
        ).stdout

    def python(self, block: Block) -> None:
        """Run a block of code; blocks of a page share their names."""
        exec(compile(block.text, str(block), "exec"), self.names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else []) for name in RUN]
)
def test_what_a_page_says_can_be_typed(
    name: str,
    stage: Path,
    tmp_path: Path,
    small_demo: None,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if name.endswith("export.md"):
        request.getfixturevalue("int8_products")
    folder = tmp_path / "work"
    if name == FROM_NOTHING:
        folder.mkdir()
    else:
        shutil.copytree(stage, folder)
    monkeypatch.chdir(folder)
    _trained_weights(name, folder)
    reader = Reader(folder, stage)
    for block in read_blocks(PAGES[name]):
        if block.language == "sh" and not block.not_run:
            said = reader.sh(block)
            if block.output and not block.text.startswith(("cp", "cat")):
                _require_same_results(block, said, folder)
        elif block.language == "python" and not block.not_run:
            reader.python(block)
        elif block.language in ("toml", "ini"):
            path = tmp_path / f"page.{block.language}"
            path.write_text(block.text, "utf-8")
            assert not check_config(path), f"{block}: {[str(finding) for finding in check_config(path)]}"


def _trained_weights(name: str, folder: Path) -> None:
    """A weight file of the other system's layout, where a page imports one."""
    if not name.endswith("flexunet.md"):
        return
    from glomtile.config.load import load_config
    from glomtile.networks.registry import build_model

    config = load_config(folder / "train_eval_infer.config", ["model.mpp=2.0"])
    (folder / "best_model.h5").unlink(missing_ok=True)
    build_model(config.model, seed=1).save(folder / "best_model.h5")
    text = INI.replace("[model]", "[dataset]\nimage_mpp = 2.0\n[model]\nmpp = 2.0")
    (folder / "train_eval_infer.config").write_text(text, "utf-8")


def _require_same_results(block: Block, said: str, folder: Path) -> None:
    """Check that the recorded output names the same results, apart from figures and image names."""
    start, stop = block.output
    recorded = "\n".join(block.page.read_text("utf-8").splitlines()[start:stop])

    def plain(text: str) -> str:
        return re.sub(r"\w*(patient|case)\w*", "NAME", text.replace(f"{folder}/", ""))

    for line in plain(said).splitlines():
        if re.fullmatch(r"[\w./-]+", line) and "sheets/" not in line:
            assert line in plain(recorded), f"{block}: record it anew, it prints {line}"


# --- what is not run ----------------------------------------------------------------------------------


def _marked() -> Iterator[Any]:
    for page in PAGES.values():
        yield from (block for block in read_blocks(page) if block.language in ("sh", "python"))


def test_a_block_that_no_test_runs_says_why() -> None:
    unsaid = [str(b) for b in _marked() if not b.not_run and _name(b.page) not in RUN]
    assert not unsaid, "neither run nor marked <!-- not run: REASON -->"


def test_few_blocks_are_not_run() -> None:
    left_out = [b for b in _marked() if b.not_run and _name(b.page) in RUN]
    assert len(left_out) == NOT_RUN, [f"{b}: {b.not_run}" for b in left_out]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- every command parses ------------------------------------------------------------------------------

LETTERS = {"K": "4", "N": "2", "PX": "512", "UM": "0.5", "MIB": "1024", "…": "x"}
"""Numbers for the letters that stand for them; names of files may be any words."""

USAGE_ERROR: Any = typer.BadParameter.__base__
"""Typer brings a Click of its own, or not, by its version; either way this is what a wrong line raises."""


def test_every_command_line_parses() -> None:
    wrong, seen = [], 0
    for block in _marked():
        if block.language != "sh":
            continue
        for command in commands(block):
            if command.words[0] == "glomtile":
                seen += 1
                wrong += [f"{block}: {command}: {why}" for why in _refused(command.words[1:])]
    assert not wrong
    assert seen > 60


def _refused(words: tuple[str, ...]) -> Iterator[str]:
    try:
        found, rest, context = _resolve(list(parse_global_options(words)[0]))
        if rest != ["--version"]:
            found.make_context(found.name, [LETTERS.get(word, word) for word in rest], parent=context)
    except typer.Exit:
        return
    except (USAGE_ERROR, KeyError) as problem:
        yield getattr(problem, "message", str(problem))


def _resolve(words: list[str]) -> tuple[Any, list[str], Any]:
    command: Any = get_command(app)
    context = command.context_class(command, info_name="glomtile")
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    return command, words, context


def test_every_command_in_the_running_text_exists() -> None:
    wrong: list[str] = []
    tree = command_tree()
    first_words = {name.split()[0] for name in tree}
    for page in PAGES.values():
        for line, span in spans(page):
            words = span.split()
            if words and words[0] == "glomtile":
                words = words[1:]
            elif not words or words[0] not in first_words or not any(w.startswith("--") for w in words):
                continue
            wrong += [f"{page.name}:{line}: {span}: {why}" for why in _unknown(words, tree)]
    assert not wrong


def _unknown(words: list[str], tree: dict[str, Any]) -> Iterator[str]:
    words = parse_global_options([word.rstrip(",.") for word in words if word not in ("…", "|")])[0]
    if not words or words[0] in ("COMMAND", "--version", "--help"):
        return
    name = " ".join(words[:2]) if words[0] == "config" and len(words) > 1 else words[0]
    if name not in tree and name != "config":
        yield f"there is no command {name}"
        return
    options = {option for p in tree[name].params for option in p.opts} if name in tree else set()
    yield from (f"no option {w}" for w in words if w.startswith("--") and w not in {*options, "--help"})


# --- reading pages ------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, "utf-8")
        return path

    return write


def test_blocks_know_their_language_reason_and_output(page: Callable[[str], Path]) -> None:
    text = (
        "# A\n```sh\nglomtile info  # tell\n```\n\n<!-- output -->\n```text\n1\n2\n```\n"
        "<!-- not run: hours -->\n\n```python\nx\n```\n"
    )
    first, second = read_blocks(page(text))
    assert (first.language, first.line, first.not_run, first.output) == ("sh", 3, None, (7, 9))
    assert (second.language, second.not_run, second.output) == ("python", "hours", None)
    assert [c.words for c in commands(first)] == [("glomtile", "info")]


@pytest.mark.parametrize(
    "text", ["```\nglomtile info\n```\n", "```sh\nglomtile info\n", "    glomtile info\n"]
)
def test_a_block_that_no_test_would_find_is_refused(page: Callable[[str], Path], text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_blocks(page(text))


def test_a_page_of_measurements_says_so_once(page: Callable[[str], Path]) -> None:
    text = "# R\n<!-- not run, the whole page: days -->\n\n    glomtile train x \\\n        --resume\n"
    (block,) = read_blocks(page(text))
    assert block.not_run == "days"
    assert commands(block)[0].words == ("glomtile", "train", "x", "--resume")


def test_commands_are_joined_continued_and_sent_to_files(page: Callable[[str], Path]) -> None:
    text = "```sh\na b \\\n  c && d\nglomtile config init > x.toml\n```\n"
    (block,) = read_blocks(page(text))
    first, second, third = commands(block)
    assert (first.words, second.words) == (("a", "b", "c"), ("d",))
    assert (third.words, third.into) == (("glomtile", "config", "init"), "x.toml")


def test_wrong_options_and_commands_are_found() -> None:
    assert list(_refused(("segment", "a.svs", "-o", "out", "--no-such-option")))
    assert list(_refused(("segmant", "a.svs")))
    assert not list(_refused(("segment", "a.svs", "-o", "out", "--threads", "N")))
    tree = command_tree()
    assert list(_unknown(["segment", "--tissue-mask"], tree))
    assert not list(_unknown(["segment", "--dry-run"], tree))


def test_the_status_of_a_log_is_not_recorded(tmp_path: Path) -> None:
    status = "epoch 1/2: 3 of 9, 4 s left · loss 1\nsheets: 6 of 6 in 1 s\nobjects: 1 done\ndrawing: 20 s\n"
    text = f"{status}{tmp_path}/models/best\nprepared 6 of 7 images\n"
    assert tidy(text, tmp_path) == "models/best\nprepared 6 of 7 images"
