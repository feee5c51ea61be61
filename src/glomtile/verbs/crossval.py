"""Cross-validation: every image judged by a network that saw neither it nor its neighbours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.config.schema import Config
from glomtile.core.folds import deal_folds
from glomtile.errors import InputError, UsageError
from glomtile.files import workspace
from glomtile.files.groups import group_rows
from glomtile.files.tables import Cell, read_csv, write_csv
from glomtile.types import SILENT, Progress
from glomtile.verbs.folds import AFTER_TRAINING, JUDGE_ONLY, TRAIN_ONLY, FoldJob, Pool, run_folds
from glomtile.verbs.judgedimages import join_judged
from glomtile.verbs.score import ScoreResult, score

if TYPE_CHECKING:
    from glomtile.core.scores import Figure
    from glomtile.engine.cluster import Cluster
    from glomtile.engine.pretrained import Beginning
    from glomtile.files.pairs import Pair

RUNS, SETTINGS = "runs.csv", "settings.json"
TRUSTED = "trusted"
_LARGEST_FOLD_NUMBER = 99


@dataclass(frozen=True)
class CrossvalResult:
    """What a cross-validation gave.

    Attributes
    ----------
    scores : ScoreResult
        Over all judged images.
    trusted : ScoreResult or None
        Over those that are trained on too, where some are only judged.
    folds : tuple of Path
        Their folders, each with its networks in ``models/``.
    paths : tuple of Path
        Files written.
    """

    scores: ScoreResult
    trusted: ScoreResult | None
    folds: tuple[Path, ...]
    paths: tuple[Path, ...]


def crossval(
    config: Config,
    out: Path,
    *,
    folds: int = 4,
    name: str | None = None,
    groups: Path | None = None,
    against: Path | None = None,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> CrossvalResult:
    """Train a network for each fold, predict what it was not trained on, and score all predictions together.

    Parameters
    ----------
    config : Config
        Its ``[train]`` folders hold the images of all folds; ``[valid]`` and ``[test]`` are not read, so
        every fold is trained to the end of its schedule and its last weights are used.
    out : Path
        Folder of runs: ``<out>/<name>/`` for this one, a row of ``<out>/runs.csv`` for each.
    folds : int
        2 to 99.
    name : str, optional
        Of the run; the config's stem by default.
    groups : Path, optional
        CSV ``stem,group[,use]``: images of one group fall into one fold, and intervals are drawn over groups.
        ``use`` is empty, ``train`` (in every training, never judged) or ``judge`` (never trained on).
    against : Path, optional
        Masks of another program for the same images: the paired difference is given too.
    cluster : Cluster, optional
        Whose workers train, a fold each at a time; this process does where it is left out.
    progress : Progress

    Returns
    -------
    CrossvalResult

    Raises
    ------
    ConfigError
        The network cannot be built, or its loss is unknown.
    UsageError
        Fewer groups than folds, or a run of this name has other settings or damaged ones.
    InputError
        Images and masks do not pair, or the table of groups does not fit them.
    ModelError
        ``[train] pretrained`` names no model, or in a later fold another than in the first.
    ClusterError
        A fold's worker died again and again, or the scheduler of the cluster was lost and did not return.

    Notes
    -----
    A run that was stopped goes on where it was: a finished fold is not trained again, an unfinished one from
    its last epoch. Folds are stretches of neighbouring names that part no group (`core.folds.deal_folds`).
    """
    began = time.perf_counter()
    run = Run.begun(config, Path(out), name, folds, groups)
    run_folds([run.job], folds, cluster, progress)
    return run.judged(against, began, progress)


@dataclass(frozen=True)
class Run:
    """A cross-validation under way.

    Attributes
    ----------
    job : FoldJob
    out : Path
        Folder of runs.
    folds : int
    """

    job: FoldJob
    out: Path
    folds: int

    @classmethod
    def begun(cls, config: Config, out: Path, name: str | None, folds: int, groups: Path | None) -> Run:
        """Begin the run's folder, or see that it is this run's; refuse what no fold could train.

        Raises
        ------
        ConfigError, UsageError, InputError, ModelError
            See `crossval`.
        """
        from glomtile.engine.pretrained import beginning
        from glomtile.nets.losses import build_loss
        from glomtile.verbs.trainable import require_buildable

        _require_sense(folds, name)
        require_buildable(config)
        build_loss(config.model)
        pool = read_pool(config, groups)
        dealt = deal_folds([pool.groups[pair.stem] for pair in pool.judged], folds)
        folder = out / (name or name_of(config))
        start = beginning(config)
        _require_same_run(folder, _identity(config, pool, dealt, start))
        told = (start.address, start.digest) if start else None
        return cls(FoldJob(config, pool, tuple(dealt), folder.absolute(), told), out, folds)

    def judged(self, against: Path | None, began: float, progress: Progress) -> CrossvalResult:
        """Score the predictions of its folds, all of which are done, and add its row to the table of runs.

        Parameters
        ----------
        against : Path or None
        began : float
            When training began, by `time.perf_counter`.
        progress : Progress
        """
        config, pool = self.job.config, self.job.pool
        folder = self.out / self.job.run.name
        fold_folders = [folder / f"fold-{fold + 1}" for fold in range(self.folds)]
        join_judged(fold_folders, folder)
        everything = {pair.stem: pair for pair in pool.judged}
        scores = _score(config, folder, list(everything), pool, everything, against, progress)
        trusted = None
        if set(pool.trusted) != set(everything):
            trusted = _score_part(config, folder, pool, everything, against, progress)
        seconds = time.perf_counter() - began
        table = _add_row(self.out / RUNS, folder.name, config, self.folds, scores, trusted, seconds)
        parts = [scores.paths, trusted.paths if trusted else ()]
        return CrossvalResult(
            scores, trusted, tuple(fold_folders), (table, *(path for part in parts for path in part))
        )


def name_of(config: Config) -> str:
    """What a run of these settings is called where nobody says otherwise."""
    return config.source.stem if config.source else "crossval"


def read_pool(config: Config, groups: Path | None) -> Pool:
    """The images of ``[train]``, with what a table says of their groups and use.

    Parameters
    ----------
    config : Config
    groups : Path or None
        The table; without one every image is a group of its own.

    Raises
    ------
    InputError
        See `crossval`.
    """
    from glomtile.engine.sources import split_pairs

    pairs = tuple(split_pairs(config, "train"))
    stems = [pair.stem for pair in pairs]
    if groups is None:
        return Pool(pairs, {stem: stem for stem in stems}, {}, grouped=False)
    known: dict[str, str] = {}
    use: dict[str, str] = {}
    for row in group_rows(groups, stems):
        stem, role = row["stem"], row.get("use", "")
        known[stem] = row["group"]
        if role not in ("", TRAIN_ONLY, JUDGE_ONLY):
            raise InputError(
                groups, f"expected use to be empty, {TRAIN_ONLY} or {JUDGE_ONLY} for {stem}, got {role!r}"
            )
        if role:
            use[stem] = role
    return Pool(pairs, known, use)


def _require_sense(folds: int, name: str | None) -> None:
    if not 2 <= folds <= _LARGEST_FOLD_NUMBER:
        raise UsageError("--folds", f"expected 2 to {_LARGEST_FOLD_NUMBER}, got {folds}")
    if name is not None and (Path(name).name != name or name in ("", ".", "..")):
        raise UsageError("--name", f"expected the name of a folder, got {name!r}")


def _identity(config: Config, pool: Pool, dealt: Sequence[int], start: Beginning | None) -> dict[str, Any]:
    """What the folds' networks depend on, as JSON has it."""
    sections = json.loads(config.model_dump_json(exclude=set(AFTER_TRAINING)))
    for key in ("images_dir", "masks_dir", "model_dir", "eval_dir"):
        sections["train"].pop(key, None)
    sections["train"]["pretrained"] = start.digest if start else None
    numbers = {pair.stem: fold + 1 for pair, fold in zip(pool.judged, dealt, strict=True)}
    sizes = {pair.stem: [pair.image.stat().st_size, pair.mask.stat().st_size] for pair in pool.pairs}
    return {"settings": sections, "folds": numbers, "use": pool.use, "files": sizes}


def _require_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Begin a run's folder, or make sure that it is this run's."""
    path = folder / SETTINGS
    try:
        known = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        workspace.write_json(path, identity)
        return
    except (OSError, ValueError) as problem:
        raise UsageError(path, f"expected the settings of a run, got: {problem}") from problem
    if not isinstance(known, dict) or not isinstance(known.get("settings"), dict):
        raise UsageError(path, f"expected the settings of a run as a map, got {str(known)[:60]}")
    wanted = json.loads(json.dumps(identity))
    known = _with_later_settings(known, wanted)
    if known == wanted:
        return
    others = ", ".join(_differences(known, wanted))
    raise UsageError(
        folder,
        f"expected the settings of the run that is there, got others: {others}",
        "give another --name, or move that run away",
    )


def _with_later_settings(known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run; settings that came after it are at their defaults, as it did without them."""
    then, defaults = known["settings"], json.loads(Config().model_dump_json())
    filled = {}
    for section, keys in wanted["settings"].items():
        told = then.get(section, {})
        if isinstance(told, dict):
            filled[section] = {key: defaults[section][key] for key in keys} | told
    return known | {"settings": then | filled}


def _differences(known: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*known, *wanted]):
            yield from _differences(known.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    elif known != wanted:
        yield f"{where.removeprefix('settings.')} {known} is now {wanted}"


def _score_part(
    config: Config,
    folder: Path,
    pool: Pool,
    pairs: dict[str, Pair],
    against: Path | None,
    progress: Progress,
) -> ScoreResult:
    """The figures over the images whose labels are trusted, in a folder of their own."""
    stems = [stem for stem in pool.trusted if stem in pairs]
    part = folder / TRUSTED
    for kind in ("predictions", "truth"):
        for stem in stems:
            workspace.link(part / kind / f"{stem}.png", folder / kind / f"{stem}.png")
    return _score(config, part, stems, pool, pairs, against, progress)


def _score(
    config: Config,
    folder: Path,
    stems: Sequence[str],
    pool: Pool,
    pairs: dict[str, Pair],
    against: Path | None,
    progress: Progress,
) -> ScoreResult:
    from glomtile.engine.sources import scale_of_picture

    for stem in stems:
        workspace.link(folder / "images" / pairs[stem].image.name, pairs[stem].image)
    if against is not None:
        _link_masks(against, stems, folder / "against")
    groups = None
    if pool.grouped:
        groups = write_csv(
            folder / "groups.csv", ["stem", "group"], [[stem, pool.groups[stem]] for stem in stems]
        )
    scales = {stem: scale_of_picture(config, pairs[stem].image) for stem in stems}
    return score(
        folder / "predictions",
        folder / "truth",
        folder,
        palette=config.palette(),
        groups=groups,
        mpp={stem: scale for stem, scale in scales.items() if scale is not None},
        images=folder / "images",
        against=folder / "against" if against is not None else None,
        draws=config.eval.draws,
        progress=progress,
    )


def _link_masks(source: Path, stems: Sequence[str], target: Path) -> None:
    """The masks of these images in another folder."""
    from glomtile.files.images import list_images
    from glomtile.files.masks import MASK_SUFFIXES

    found = {path.stem: path for path in list_images(source, MASK_SUFFIXES)}
    missing = [stem for stem in stems if stem not in found]
    if missing:
        raise InputError(source, f"expected a mask for every image, got none for {', '.join(missing[:10])}")
    for stem in stems:
        workspace.link(target / found[stem].name, found[stem])


_FIGURES = ("pooled_dice", "mean_dice", "pooled_precision", "pooled_recall", "object_f1", "pq")


def _add_row(
    path: Path,
    name: str,
    config: Config,
    folds: int,
    scores: ScoreResult,
    trusted: ScoreResult | None,
    seconds: float,
) -> Path:
    """One row a run, a later one of the same name in the place of the earlier; of the first class above 0."""
    row: dict[str, Cell] = {
        "name": name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.source.name if config.source else "",
        "folds": folds,
        "epochs": config.train.epochs,
        "tta": config.tiledinfer.tta,
        "threshold": config.tiledinfer.threshold,
        "smoothing_px": config.tiledinfer.smoothing_px,
        "seconds": round(seconds, 1),
    }
    for prefix, result in (("", scores), (f"{TRUSTED}_", trusted)):
        if result is not None:
            row |= _figures(prefix, result)
    rows: list[dict[str, Any]] = list(read_csv(path)) if path.is_file() else []
    rows = [*(old for old in rows if old.get("name") != name), row]
    columns = list(dict.fromkeys(column for line in rows for column in line))
    write_csv(path, columns, [[line.get(column) for column in columns] for line in rows])
    return path


def _figures(prefix: str, result: ScoreResult) -> dict[str, Cell]:
    found: dict[str, Cell] = {f"{prefix}images": len(result.per_image)}
    figures: dict[str, Figure] = result.scores.classes[0].figures
    for name in _FIGURES:
        figure = figures[name]
        found |= {
            f"{prefix}{name}": round(figure.value, 4),
            f"{prefix}{name}_low": round(figure.low, 4),
            f"{prefix}{name}_high": round(figure.high, 4),
        }
    total = result.scores.classes[0].total
    return found | {f"{prefix}{name}": getattr(total, name) for name in ("found", "false", "missed")}
