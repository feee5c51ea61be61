"""Score alone knows how two folders of masks become honest figures on disk; no model is needed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomtile.core.arguments import number_argument, path_argument, typed_argument, whole_argument
from glomtile.core.bootstrap import DRAWS, SEED
from glomtile.core.palette import GLOMERULI, Palette
from glomtile.core.scores import ImageScore, Scores, paired_difference, score_image
from glomtile.errors import GlomtileError, InputError
from glomtile.files.groups import group_rows
from glomtile.files.images import image_size, list_images, read_image
from glomtile.files.masks import MASK_SUFFIXES, mask_size, read_mask
from glomtile.files.picturelist import PictureList, Trio, write_picture_list
from glomtile.files.scale import PLAUSIBLE_MPP
from glomtile.files.slides import slide_name
from glomtile.files.workspace import move_aside
from glomtile.types import SILENT, Progress, UInt8
from glomtile.verbs.judgedimages import remove_judged
from glomtile.verbs.report import report
from glomtile.verbs.scorefiles import (
    PerImage,
    Triple,
    run_command,
    worst_first,
    write_run,
    write_scores,
    write_sheets,
)

__all__ = ["ScoreResult", "read_groups", "score", "worst_first", "write_run", "write_scores", "write_sheets"]


@dataclass(frozen=True)
class ScoreResult:
    """What scoring found and wrote.

    Attributes
    ----------
    scores : Scores
        Figures with intervals.
    per_image : list of (str, ImageScore)
        Stem and score, the worst image first.
    paths : tuple of Path
        Files written.
    """

    scores: Scores
    per_image: PerImage
    paths: tuple[Path, ...]


def score(
    predictions: str | Path,
    truth: str | Path,
    out: str | Path,
    *,
    palette: Palette = GLOMERULI,
    tolerance: int = 0,
    groups: str | Path | None = None,
    mpp: float | Mapping[str, float] | None = None,
    images: str | Path | None = None,
    against: str | Path | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
    progress: Progress = SILENT,
) -> ScoreResult:
    """Compare a folder of predicted masks with a folder of true ones.

    Parameters
    ----------
    predictions, truth : Path
        Folders of masks, one each of every stem, of any program.
    out : Path
        Folder for ``scores.json``, ``per_image.csv``, ``per_class.csv``, ``objects.csv``, ``pictures.json``,
        ``run.json``, ``report.html`` and, with `images`, ``sheets/``.
    palette : Palette
        Which colour is which class.
    tolerance : int
        How far red, green and blue of a mask may each lie from a class's colour: masks stored as JPEG have no
        exact ones. 0 to 255.
    groups : Path, optional
        CSV with the columns ``stem,group``: intervals then draw whole groups.
    mpp : float or mapping of str to float, optional
        Micrometres per pixel, of all images or by stem, for distances and areas in µm; 0.05 to 20.
    images : Path, optional
        The pictures themselves, for the report and for comparison sheets of the worst.
    against : Path, optional
        Another folder of predictions: the paired difference to it is written too.
    draws, seed : int
        Of the bootstrap.
    progress : Progress
        Told of every image.

    Returns
    -------
    ScoreResult

    Raises
    ------
    ArgumentError
        When an argument has a wrong type or is out of range.
    InputError
        When a mask has no partner, two partners or another size than its partner, cannot be read or holds
        what the palette does not; all such masks are named. Nothing is written then.
    """
    began = time.perf_counter()
    predictions, truth, out = (
        path_argument(name, value)
        for name, value in (("predictions", predictions), ("truth", truth), ("out", out))
    )
    groups, images, against = (
        None if value is None else path_argument(name, value)
        for name, value in (("groups", groups), ("images", images), ("against", against))
    )
    typed_argument("palette", palette, Palette, "a Palette")
    reading = _Reading(palette, whole_argument("tolerance", tolerance, 0, 255))
    pairs = _pair(predictions, truth)
    scales = _scales(mpp, pairs)
    if predictions.resolve() == truth.resolve():
        progress.warn(f"predictions and truth are the same folder, {truth}: every figure will be perfect")
    known = read_groups(groups, list(pairs)) if groups is not None else None
    pictures = _pictures(images, pairs) if images is not None else {}
    per_image = _score_pairs(pairs, reading, scales, progress)
    difference = None
    if against is not None:
        other = _score_pairs(_pair(against, truth), reading, scales, progress)
        ordered = [known[stem] for stem, _ in per_image] if known is not None else None
        difference = paired_difference(
            [s for _, s in other], [s for _, s in per_image], groups=ordered, draws=draws, seed=seed
        )
    sheets: tuple[Path, ...] = ()
    if images is not None:
        # First: a picture that cannot be decoded must not leave new figures beside an old page.

        def load(stem: str) -> Triple:
            predicted, true = pairs[stem]
            return read_image(pictures[stem]), reading.labels(true), reading.labels(predicted)

        sheets = write_sheets(out, per_image, palette, load, progress=progress)
    else:
        move_aside(out / "sheets")  # of an earlier run: they would stand in the report beside these figures
    if run_command(out) == "evaluate":
        remove_judged(out)  # masks tell no probabilities
    scores, paths = write_scores(
        out, per_image, palette, groups=known, draws=draws, seed=seed, difference=difference
    )
    paths += sheets
    trios = tuple(
        Trio(stem, pictures.get(stem), true, predicted) for stem, (predicted, true) in pairs.items()
    )
    paths += (write_picture_list(out, PictureList(palette, trios, tolerance=reading.tolerance)),)
    settings = {
        "predictions": predictions.name,
        "truth": truth.name,
        "against": against.name if against else None,
        "groups": groups.name if groups else None,
        "tolerance": tolerance,
        "mpp": "of each image" if isinstance(mpp, Mapping) else mpp,
        "draws": draws,
        "seed": seed,
    }
    paths += (write_run(out, "score", settings, time.perf_counter() - began),)
    return ScoreResult(scores, worst_first(per_image), (*paths, report(out)))


def read_groups(path: Path, stems: Iterable[str]) -> dict[str, str]:
    """Read which group each image belongs to.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group``; other columns and other stems are passed over.
    stems : iterable of str
        Images that must have a group.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        When a stem has no group or two.
    """
    wanted = list(stems)
    known = {row["stem"]: row["group"] for row in group_rows(path, wanted)}
    return {stem: known[stem] for stem in wanted}


def _score_pairs(
    pairs: Mapping[str, tuple[Path, Path]],
    reading: _Reading,
    scales: Mapping[str, float],
    progress: Progress,
) -> PerImage:
    progress.start("score", len(pairs))
    per_image, failed = [], []
    for stem, (predicted, true) in pairs.items():
        try:
            per_image.append((stem, _score_pair(predicted, true, reading, scales.get(stem))))
        except GlomtileError as error:
            failed.append(error)
        progress.advance()
    if len(failed) == 1:
        raise failed[0]
    if failed:
        reasons = "".join(f"\n  {error}" for error in failed)
        raise InputError(
            "score", f"expected {len(pairs)} usable pairs of masks, got {len(failed)} that are not:{reasons}"
        )
    return per_image


def _scales(mpp: float | Mapping[str, float] | None, stems: Iterable[str]) -> dict[str, float]:
    """Micrometres per pixel by stem, of those images of which they are known."""
    if mpp is None:
        return {}
    given = mpp if isinstance(mpp, Mapping) else dict.fromkeys(stems, mpp)
    return {stem: number_argument("mpp", one, *PLAUSIBLE_MPP, "µm per pixel") for stem, one in given.items()}


@dataclass(frozen=True)
class _Reading:
    """How the masks of both folders are read."""

    palette: Palette
    tolerance: int

    def labels(self, path: Path) -> UInt8:
        return read_mask(path, self.palette, tolerance=self.tolerance)


def _score_pair(predicted: Path, true: Path, reading: _Reading, mpp: float | None) -> ImageScore:
    prediction, truth = reading.labels(predicted), reading.labels(true)
    if prediction.shape != truth.shape:
        got, expected = (f"{w} x {h} px" for h, w in (prediction.shape, truth.shape))
        raise InputError(predicted, f"expected the size of {true.name}, {expected}, got {got}")
    try:
        return score_image(prediction, truth, reading.palette.num_classes, mpp)
    except InputError as error:
        raise InputError(predicted, f"{error.where}: {error.message}", error.hint) from error


def _pair(folder: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    ours, theirs = _by_stem(folder), _by_stem(truth)
    for some, others, where in ((theirs, ours, folder), (ours, theirs, truth)):
        alone = [path.name for stem, path in some.items() if stem not in others]
        if alone:
            raise InputError(
                where, f"expected a partner of the same stem for every file, got none for {_listed(alone)}"
            )
    return {stem: (ours[stem], theirs[stem]) for stem in sorted(ours)}


def _pictures(folder: Path, pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, Path]:
    """Return the image of every stem; the folder may hold more."""
    found = _by_stem(folder)
    missing = [stem for stem in pairs if stem not in found]
    if missing:
        raise InputError(folder, f"expected an image for every mask, got none for {_listed(missing)}")
    for stem, (_, true) in pairs.items():
        if image_size(found[stem]) != mask_size(true):
            raise InputError(found[stem], f"expected the size of {true.name}, got another")
    return {stem: found[stem] for stem in pairs}


def _by_stem(folder: Path) -> dict[str, Path]:
    """The masks or pictures of a folder by what `segment` calls the slide: ``a`` of ``a.ome.tif`` too."""
    found: dict[str, Path] = {}
    for path in list_images(folder, MASK_SUFFIXES):
        stem = slide_name(path)
        if stem in found:
            raise InputError(folder, f"expected one file a stem, got {found[stem].name} and {path.name}")
        found[stem] = path
    return found


def _listed(names: Sequence[str], most: int = 10) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
