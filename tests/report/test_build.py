from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glomtile.errors import InputError
from glomtile.evaluation.metrics import score_image
from glomtile.evaluation.score import write_run, write_scores, write_sheets
from glomtile.io.images import write_png
from glomtile.palette import Palette
from glomtile.report.build import write_report

HOSTILE = '"><img src=x onerror=alert(1)>&'
THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])
TWO = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1}, ["none", "</style><script>alert(2)</script>"])


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def square(left: int, size: int = 20, number: int = 1) -> np.ndarray:
    plane = np.zeros((64, 64), np.uint8)
    plane[10 : 10 + size, left : left + size] = number
    return plane


def results(folder: Path, stems: tuple[str, ...] = ("a", "b", "c"), palette: Palette = TWO) -> Path:
    planes = {stem: (square(10), square(10 + 3 * i)) for i, stem in enumerate(stems)}
    per_image = [(stem, score_image(p, t, palette.num_classes)) for stem, (t, p) in planes.items()]
    write_scores(folder, per_image, palette)
    write_sheets(
        folder, per_image, palette, lambda stem: (np.full((64, 64, 3), 200, np.uint8), *planes[stem])
    )
    write_run(folder, "score", {"train": {"epochs": 3}, "note": HOSTILE}, 1.5)
    return folder


def embedded(attributes: dict[str, str | None]) -> Image.Image:
    kind, _, data = (attributes["src"] or "").partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_page_shows_figures_with_intervals_images_settings_and_versions(tmp_path):
    page = Page(write_report(results(tmp_path)))
    scores = json.loads((tmp_path / "scores.json").read_text())["classes"][0]["figures"]
    for name in ("pooled_dice", "mean_dice", "object_f1"):
        figure = scores[name]
        assert f"{figure['value']:.3f}" in page.text
        assert f"{figure['low']:.3f} to {figure['high']:.3f}" in page.text
    assert "of 3 objects found" in page.text
    assert "train.epochs" in page.text
    assert "opencv-python-headless" in page.text
    assert len(page.all("img")) == 3


def test_the_worst_image_comes_first(tmp_path):
    page = Page(write_report(results(tmp_path, ("best", "middle", "worst"))))
    assert [re.search(r"of (\w+)$", image["alt"] or "")[1] for image in page.all("img")] == [
        "worst",
        "middle",
        "best",
    ]
    assert page.text.index("worst") < page.text.index("middle") < page.text.index("best")


def test_hostile_names_of_files_classes_settings_and_folders_stay_text(tmp_path):
    folder = tmp_path / f"run {HOSTILE}"
    page = Page(write_report(results(folder, (HOSTILE, "b"))))
    assert page.all("script") == [{}]
    assert "alert(" not in page.source.partition("<script>")[2].replace("&lt;", "")
    assert all(image["src"].startswith("data:") and "onerror" not in image for image in page.all("img"))
    assert HOSTILE in page.text
    assert "<img src=x" not in page.source
    assert "</style><script>" not in page.source
    assert page.source.count("</style>") == 1


def test_nothing_is_loaded_from_anywhere(tmp_path):
    (tmp_path / "train_losses.csv").write_text("epoch, loss, val_loss\n0, 1, 2\n1, 0.5, 1\n")
    page = Page(write_report(results(tmp_path)))
    assert page.all("script") == [{}]
    assert page.all("link") == page.all("iframe") == []
    assert not re.search(r"https?://|url\((?!#)|@import", page.source)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))


def test_no_script_but_the_packages_own_may_run(tmp_path):
    page = Page(write_report(results(tmp_path)))
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    script = page.source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_images_are_embedded_and_scaled_to_fit(tmp_path):
    results(tmp_path)
    write_png(tmp_path / "chart.png", np.random.default_rng(0).integers(0, 255, (900, 3000, 3), np.uint8))
    images = Page(write_report(tmp_path)).all("img")
    assert [embedded(image).size[0] for image in images] == [1600, 1600, 1600, 1100]
    assert all(int(image["width"]) == embedded(image).size[0] for image in images)


def test_training_curves_are_drawn_from_their_tables_and_not_twice(tmp_path):
    results(tmp_path)
    rows = "epoch, loss, val_loss\n0, 0.4, 0.5\n1, 0.3, nan\n2, 0.2, 0.4\n3, 0.1, 0.3\n"
    (tmp_path / "train_losses.csv").write_text(rows)
    write_png(tmp_path / "train_losses.png", np.zeros((10, 10, 3), np.uint8))
    page = Page(write_report(tmp_path))
    assert "train_losses" not in [image["alt"] for image in page.all("img")]
    assert "val_loss (last 0.3000)" in page.text
    assert {"train_losses. "} <= {part["aria-label"] for part in page.all("div") if part.get("role") == "img"}


def test_the_page_warns_of_unreliable_intervals(tmp_path):
    assert "Only 3 images" in Page(write_report(results(tmp_path / "few"))).text
    assert "There are no intervals" not in Page(write_report(tmp_path / "few")).text
    assert "There are no intervals" in Page(write_report(results(tmp_path / "one", ("a",)))).text


def test_seams_are_shown_where_they_are_measured(tmp_path):
    results(tmp_path)
    path = tmp_path / "scores.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"seams": {"seam_ratio": 1.07}}))
    assert "seam ratio 1.07 Seam ratio: label changes" in " ".join(Page(write_report(tmp_path)).text.split())


def test_the_title_names_the_project_and_the_folder(tmp_path):
    page = Page(write_report(results(tmp_path / "glomeruli" / "evaluation")))
    assert "<title>glomeruli: evaluation – glomtile report</title>" in page.source


def test_a_class_without_objects_is_named(tmp_path):
    page = Page(write_report(results(tmp_path, palette=THREE)))
    assert "The class vessel is in no truth and no prediction" in page.text
    assert "Not defined." in page.text
    assert "nan" not in page.text


def test_a_paired_difference_gets_a_verdict(tmp_path):
    results(tmp_path)
    path = tmp_path / "scores.json"
    content = json.loads(path.read_text())
    figures = {
        "pooled_dice": {"value": 0.1, "low": 0.05, "high": 0.2, "images": 3},
        "hd95": {"value": 2.0, "low": 1.0, "high": 3.0, "images": 3},
        "object_f1": {"value": 0.1, "low": -0.05, "high": 0.2, "images": 3},
        "pq": {"value": None, "low": None, "high": None, "images": 0},
    }
    content["difference"] = [{"class": 1, "name": "x", "figures": figures}]
    path.write_text(json.dumps(content))
    text = " ".join(Page(write_report(tmp_path)).text.split())
    assert "Dice, pooled +0.100 +0.050 to +0.200 better" in text
    assert "+2.0 px +1.0 to +3.0 px worse" in text
    assert "Object F1 +0.100 −0.050 to +0.200 no difference shown" in text
    assert "Panoptic quality – – not known" in text


def test_a_folder_of_curves_alone_makes_a_page(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "train_losses.csv").write_text("epoch,loss\n0,1\n1,0.5\n")
    assert "loss (last 0.5000)" in Page(write_report(tmp_path)).text


def test_the_same_folder_gives_the_same_bytes_again(tmp_path):
    first = write_report(results(tmp_path)).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_what_cannot_be_read_is_listed(tmp_path):
    results(tmp_path)
    (tmp_path / "sheets" / "01_c.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut")
    (tmp_path / "train_losses.csv").write_text("epoch,loss\n0,low\n")
    page = Page(write_report(tmp_path))
    assert len(page.all("img")) == 2
    assert "01_c.png: " in page.text
    assert "train_losses.csv: expected numbers under loss, got 'low'" in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "got unreadable JSON"),
        ("[]", "expected a JSON object, got JSON that is no object"),
        ("{}", "expected scores written by glomtile, got a file without 'hd95_unit'"),
        (
            '{"hd95_unit": "px", "groups": null, "images": 2, "interval": 3, "classes": 1}',
            "scores written by glomtile",
        ),
    ],
)
def test_scores_that_are_damaged_are_refused_and_the_old_page_is_kept(tmp_path, content, message):
    before = write_report(results(tmp_path)).read_bytes()
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(InputError, match=message):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize("key", ["soft_pixel_accuracy", "interval", "images", "groups", "classes"])
def test_scores_that_lack_a_part_are_refused_by_name(tmp_path, key):
    path = results(tmp_path) / "scores.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"scores\.json: expected scores .* without '{key}'"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "column"),
    [("per_image.csv", "dice"), ("objects.csv", "area_px"), ("per_image.csv", "true_positive")],
)
def test_a_table_with_text_among_its_numbers_is_listed(tmp_path, name, column):
    path = results(tmp_path) / name
    header, first, *rest = path.read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index(column)] = "many"
    path.write_text("\n".join([header, ",".join(cells), *rest]))
    note = rf"{name}: expected a( whole)? number under {column} in row 1, got 'many'"
    assert re.search(note, Page(write_report(tmp_path)).text)


@pytest.mark.parametrize("name", ["images", "groups"])
def test_a_count_that_is_a_word_is_refused_by_name(tmp_path, name):
    path = results(tmp_path) / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "four"}))
    with pytest.raises(InputError, match=f"expected {name} as a whole number, got 'four'"):
        write_report(tmp_path)


def test_masks_without_objects_are_not_called_correct(tmp_path):
    empty = np.zeros((64, 64), np.uint8)
    write_scores(tmp_path, [("a", score_image(empty, empty, 2))], TWO)
    text = Page(write_report(tmp_path)).text
    assert "No image contains an object, and none was predicted." in text


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected scores\.json, curves or images"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="folder not found"):
        write_report(tmp_path / "nowhere")
