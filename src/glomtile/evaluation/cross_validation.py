"""Cross-validation and sweeps of settings."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.config.findings import config_error
from glomtile.config.load import COMMAND_LINE, check_config, load_config, make_config
from glomtile.config.schema import Config
from glomtile.config.toml import to_toml
from glomtile.datasets.loading import read_labels, scale_of_image, split_pairs, working_scale
from glomtile.datasets.pairing import group_rows
from glomtile.datasets.splitting import split_folds
from glomtile.errors import InputError, MissingExtraError, ModelError, UsageError
from glomtile.evaluation.calibration import CalibrationAccumulator, join_calibration, min_expected_dice
from glomtile.evaluation.score import OBJECT_COUNTS, ScoreResult, score
from glomtile.formatting import listed
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER, file_lock
from glomtile.io.images import list_images, read_image
from glomtile.io.masks import MASK_SUFFIXES, write_mask
from glomtile.io.tables import Cell, read_csv, write_csv
from glomtile.training.train import warn_of_changed_sources, warn_of_split
from glomtile.types import SILENT, Box, Progress, UInt8, crop

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.datasets.pairing import Pair
    from glomtile.inference.quality_control import QualityFlags
    from glomtile.models.pretrained import PretrainedWeights

MOST_RUNS = 1000
MOST_FOLDS = 99
RUNS, SETTINGS, TRUSTED = "runs.csv", "settings.json", "trusted"
TRAIN_ONLY, JUDGE_ONLY = "train", "judge"

FOLD_SETTINGS = ("train.model_dir", "train.eval_dir", "train.break_file", "train.use")
"""Settings that every fold has of its own."""

AFTER_TRAINING = ("tiledinfer", "eval", "infer", "test", "valid")
"""Sections that may differ when a run is continued: no fold has to be trained anew for them."""

_RUN_FIGURES = ("pooled_dice", "mean_dice", "pooled_precision", "pooled_recall", "object_f1", "pq")


@dataclass(frozen=True)
class CrossvalResult:
    """Scores of a cross-validation.

    Attributes
    ----------
    scores : ScoreResult
        Over all held-out images.
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
    """Train a network for each fold, predict its held-out images, and score all predictions together.

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
        CSV ``stem,group[,use]``: images of one group are in one fold, and the bootstrap draws groups.
        ``use`` is empty, ``train`` (in every training, never judged) or ``judge`` (never trained on).
    against : Path, optional
        Folder of other masks of the same images: the paired difference is written too.
    cluster : Cluster, optional
        Its workers train a fold each at a time; without one, this process trains.
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
        Images and masks do not pair, the table of groups does not fit them, or `against` lacks a mask.
    ModelError
        ``[train] pretrained`` names no model, or another in a later fold than in the first.
    ClusterError
        A fold failed twice on the workers, or the connection to the scheduler was lost.

    Notes
    -----
    A stopped run continues where it was: a finished fold is not trained again, an unfinished one continues
    after its last epoch. Folds are stretches of neighbouring names that divide no group, see
    `glomtile.datasets.splitting.split_folds`.
    """
    name = name or _name_of(config)
    return sweep(
        {name: config}, out, folds=folds, groups=groups, against=against, cluster=cluster, progress=progress
    )[name]


def sweep(
    configs: Mapping[str, Config],
    out: Path,
    *,
    folds: int = 4,
    groups: Path | None = None,
    against: Path | None = None,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> dict[str, CrossvalResult]:
    """Cross-validate with each of several settings.

    Parameters
    ----------
    configs : mapping of str to Config
        By the names of their runs; at least one.
    out, folds, groups, against, progress
        See `crossval`.
    cluster : Cluster, optional
        Its workers take the folds of all runs, so that none waits for the last fold of a run. Without
        one, each run is trained and scored before the next.

    Returns
    -------
    dict of str to CrossvalResult

    Raises
    ------
    UsageError, InputError, ModelError, ClusterError
        See `crossval`; the inputs of all runs are checked before the first is trained.
    """
    began = time.perf_counter()
    runs = {
        name: _prepare_run(config, Path(out), name, folds, groups, against)
        for name, config in configs.items()
    }
    first = next(iter(runs.values())).config
    warn_of_split(first, progress)
    warn_of_changed_sources(first, "train", progress)
    for start in dict.fromkeys(run.config.train.pretrained for run in runs.values()):
        if start is not None:
            progress.warn(
                f"every fold starts with the weights of {start}: scores are out of fold only for images "
                "that it was not trained on either"
            )
    results: dict[str, CrossvalResult] = {}
    if cluster is not None:
        _train_on_cluster(list(runs.values()), cluster, progress)
    for name, run in runs.items():
        if cluster is None:
            if len(runs) > 1:
                progress.note(f"run {len(results) + 1} of {len(runs)}: {name}")
            began = time.perf_counter()
            for fold in range(run.folds):
                _run_fold(FoldTask(run, fold), progress)
        results[name] = _score_run(run, began, progress)
    return results


def variants(
    path: Path, overrides: Sequence[str], varied: Sequence[str], name: str | None = None
) -> dict[str, Config]:
    """Load the configs of a sweep.

    Parameters
    ----------
    path : Path
        The config that all have in common.
    overrides : sequence of str
        ``section.key=value``, for all of them.
    varied : sequence of str
        ``section.key=value``: values of one key are alternatives, several keys give all combinations.
    name : str, optional
        Prefix of the runs' names; the config's stem by default.

    Returns
    -------
    dict of str to Config
        By the run's name, ``<name>-<key>=<value>``; characters that a folder name cannot have are ``_``.

    Raises
    ------
    UsageError
        A text without ``=``, a value given twice, a key that is also set or that each fold has of its own,
        two runs of one name, or more than a thousand runs.
    ConfigError
        A value does not fit its setting; see `load_config`.
    """
    values: dict[str, list[str]] = {}
    for text in varied:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise UsageError("--vary", f"expected SECTION.KEY=VALUE, got {text!r}")
        if value in values.setdefault(key, []):
            raise UsageError("--vary", f"expected each value once, got {text!r} twice")
        values[key].append(value)
    fixed = {text.partition("=")[0].strip() for text in overrides}
    for key in values:
        if key in fixed:
            raise UsageError("--vary", f"expected {key} either varied or set, got both")
        if key in FOLD_SETTINGS:
            raise UsageError(
                "--vary", f"expected a setting that changes scores, got {key}, which each fold has of its own"
            )
    combinations = list(product(*([f"{key}={value}" for value in values[key]] for key in values)))
    if len(combinations) > MOST_RUNS:
        raise UsageError("--vary", f"expected at most {MOST_RUNS:,} runs, got {len(combinations):,}")
    wrong = [
        replace(finding, file="--vary")
        for text in varied
        for finding in check_config(path, [text])
        if finding.severity == "error" and finding.file == COMMAND_LINE
    ]
    if wrong:
        raise config_error(wrong)
    configs: dict[str, Config] = {}
    for settings in combinations:
        config = load_config(path, [*overrides, *settings])
        parts = [re.sub("[\"']", "", setting.partition(".")[2]) for setting in settings]
        safe = [re.sub(r"[^\w.+=,-]+", "_", part, flags=re.ASCII) for part in parts]
        run = "-".join([name or _name_of(config), *safe])
        if run in configs:
            raise UsageError("--vary", f"expected runs of different names, got {run} twice")
        configs[run] = config
    return configs


@dataclass(frozen=True)
class Pool:
    """Images of a cross-validation in natural order of their names, and the group of each.

    `use` is ``"train"`` for images that are trained on in every fold and never judged, ``"judge"`` for images
    that are judged and never trained on (known label noise, say); others are both in turn. `grouped` is
    whether a table names the groups.
    """

    pairs: tuple[Pair, ...]
    groups: dict[str, str]
    use: dict[str, str]
    grouped: bool = True

    @property
    def judged(self) -> list[Pair]:
        """Images that are held out in one of the folds."""
        return [pair for pair in self.pairs if self.use.get(pair.stem) != TRAIN_ONLY]

    @property
    def trusted(self) -> list[Pair]:
        """Images that are both trained on and judged."""
        return [pair for pair in self.pairs if pair.stem not in self.use]


def read_pool(config: Config, groups: Path | None) -> Pool:
    """List the images of ``[train]``, with groups and use as `crossval` reads them from a table.

    Raises
    ------
    InputError
        See `crossval`.
    """
    pairs = tuple(split_pairs(config, "train"))
    stems = [pair.stem for pair in pairs]
    if groups is None:
        return Pool(pairs, {stem: stem for stem in stems}, {}, grouped=False)
    group_of: dict[str, str] = {}
    use: dict[str, str] = {}
    for row in group_rows(groups, stems):
        stem, role = row["stem"], row.get("use", "")
        group_of[stem] = row["group"]
        if role not in ("", TRAIN_ONLY, JUDGE_ONLY):
            raise InputError(
                groups, f"expected use to be empty, {TRAIN_ONLY} or {JUDGE_ONLY} for {stem}, got {role!r}"
            )
        if role:
            use[stem] = role
    return Pool(pairs, group_of, use)


@dataclass(frozen=True)
class CrossvalRun:
    """A cross-validation to train and score.

    `fold_of` is the fold of each judged image, `against` other masks by stem, `start` the pretrained model of
    every fold: its address as the workers see it, and its network's digest.
    """

    config: Config
    folder: Path
    folds: int
    pool: Pool
    fold_of: tuple[int, ...]
    against: dict[str, Path]
    start: tuple[str, str] | None = None


@dataclass(frozen=True)
class FoldTask:
    """One fold of one run."""

    run: CrossvalRun
    fold: int

    def __str__(self) -> str:
        return f"fold {self.fold + 1} of {self.run.folder.name}"


def _name_of(config: Config) -> str:
    return config.source.stem if config.source else "crossval"


def _prepare_run(
    config: Config, out: Path, name: str, folds: int, groups: Path | None, against: Path | None
) -> CrossvalRun:
    """Check the inputs of a run, and create its folder or make sure that it is this run's."""
    from glomtile.models.pretrained import load_pretrained
    from glomtile.networks.losses import build_loss
    from glomtile.training.train import require_buildable

    if not 2 <= folds <= MOST_FOLDS:
        raise UsageError("--folds", f"expected 2 to {MOST_FOLDS}, got {folds}")
    if Path(name).name != name or name in ("", ".", ".."):
        raise UsageError("--name", f"expected the name of a folder, got {name!r}")
    require_buildable(config)
    build_loss(config.model)
    pool = read_pool(config, groups)
    fold_of = tuple(split_folds([pool.groups[pair.stem] for pair in pool.judged], folds))
    other: dict[str, Path] = {}
    if against is not None:
        masks = {path.stem: path.absolute() for path in list_images(against, MASK_SUFFIXES)}
        if missing := [pair.stem for pair in pool.judged if pair.stem not in masks]:
            raise InputError(against, f"expected a mask for every image, got none for {listed(missing)}")
        other = {pair.stem: masks[pair.stem] for pair in pool.judged}
    start = load_pretrained(config)
    _require_same_run(out / name, _fingerprint(config, pool, fold_of, start))
    pretrained = (start.address, start.digest) if start else None
    return CrossvalRun(config, out / name, folds, pool, fold_of, other, pretrained)


def _fingerprint(
    config: Config, pool: Pool, fold_of: Sequence[int], start: PretrainedWeights | None
) -> dict[str, Any]:
    """Collect all that the folds' networks depend on, as JSON holds it."""
    sections = json.loads(config.model_dump_json(exclude=set(AFTER_TRAINING)))
    for key in ("images_dir", "masks_dir", "model_dir", "eval_dir"):
        sections["train"].pop(key, None)
    sections["train"]["pretrained"] = start.digest if start else None
    folds = {pair.stem: fold + 1 for pair, fold in zip(pool.judged, fold_of, strict=True)}
    sizes = {pair.stem: [pair.image.stat().st_size, pair.mask.stat().st_size] for pair in pool.pairs}
    return {"settings": sections, "folds": folds, "use": pool.use, "files": sizes}


def _require_same_run(folder: Path, fingerprint: dict[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.exists():
        atomic.write_json(path, fingerprint)
        return
    known = atomic.read_json(path, "the settings of a run", UsageError)
    if not isinstance(known.get("settings"), dict):
        raise UsageError(path, f"expected the settings of a run as a map, got {str(known)[:60]}")
    defaults = json.loads(Config().model_dump_json())
    for section, keys in fingerprint["settings"].items():  # a run of an earlier version lacks some
        earlier = known["settings"].get(section, {})
        if isinstance(earlier, dict):
            known["settings"][section] = {key: defaults[section][key] for key in keys} | earlier
    differing = ", ".join(_differences(known, json.loads(json.dumps(fingerprint))))
    if differing:
        raise UsageError(
            folder,
            f"expected the settings of the existing run, got others: {differing}",
            "give another --name, or move that run away",
        )


def _differences(known: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*known, *wanted]):
            yield from _differences(known.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    elif known != wanted:
        yield f"{where.removeprefix('settings.')} {known} is now {wanted}"


def _train_on_cluster(runs: Sequence[CrossvalRun], cluster: Cluster, progress: Progress) -> None:
    from glomtile.cluster import connect, run_tasks

    remote = [replace(run, folder=run.folder.absolute()) for run in runs]
    tasks = [FoldTask(run, fold) for run in remote for fold in range(run.folds)]
    of_runs = f" of {len(runs)} runs" if len(runs) > 1 else ""
    progress.note(f"{len(tasks)} folds{of_runs} for {cluster}")
    with ExitStack() as stack:
        for run in remote:
            stack.enter_context(file_lock(run.folder / PRIVATE_FOLDER / "lock", progress))
        progress.start("folds", len(tasks))
        client = stack.enter_context(connect(cluster))
        results = stack.enter_context(closing(run_tasks(client, run_fold_on_worker, tasks, progress)))
        for _, error in results:
            progress.advance(1)
            if error is not None:
                raise error


def run_fold_on_worker(task: FoldTask, progress: Progress) -> None:
    """Train and predict one fold in a worker of a cluster.

    Raises
    ------
    MissingExtraError
        The worker has no Keras to train with.
    """
    from glomtile.cluster import worker_threads
    from glomtile.system import limit_threads, quiet_import

    if find_spec("keras") is None:
        raise MissingExtraError(
            "worker",
            "expected Keras to train with, got an installation without it",
            "pip install 'glomtile[cpu]'",
        )
    with quiet_import():
        limit_threads(worker_threads(), "keras")
    _run_fold(task, progress)


def _run_fold(task: FoldTask, progress: Progress) -> None:
    """Train on the other folds, as far as that is not done, and predict the held-out images."""
    from glomtile.models.pretrained import load_pretrained
    from glomtile.training.train import train

    run, config, palette = task.run, task.run.config, task.run.config.palette()
    held_out = [pair for pair, fold in zip(run.pool.judged, run.fold_of, strict=True) if fold == task.fold]
    stems = [pair.stem for pair in held_out]
    folder = run.folder.absolute() / f"fold-{task.fold + 1}"
    progress.note(f"fold {task.fold + 1} of {run.folds}: {', '.join(stems)} held out")
    with file_lock(folder.parent / PRIVATE_FOLDER / f"{folder.name}.lock", progress, wait=True):
        for pair in run.pool.pairs:
            if pair.stem not in stems and run.pool.use.get(pair.stem) != JUDGE_ONLY:
                atomic.link(folder / "train" / "images" / pair.image.name, pair.image)
                atomic.link(folder / "train" / "masks" / pair.mask.name, pair.mask)
        atomic.write_json(folder / "held_out.json", stems)
        atomic.write_text(folder / "fold.toml", _fold_config(config, run.start[0] if run.start else None))
        fold_config = load_config(folder / "fold.toml")
        if run.start is not None:  # it may have been replaced since the run began, and folds are compared
            found = load_pretrained(fold_config)
            if found is None or found.digest != run.start[1]:
                raise ModelError(
                    run.start[0],
                    f"expected the pretrained network of the run, {run.start[1][:12]}…, got "
                    + (f"{found.digest[:12]}…" if found else "none"),
                    "put it back, or start a run of another --name",
                )
        train(fold_config, resume=(folder / "models" / "last").is_dir(), progress=progress)
        progress.start("held-out images", len(held_out))
        calibration = CalibrationAccumulator(palette)
        for pair, labels, confidence, quality in predict(config, folder / "models" / "last", held_out):
            truth, mpp = read_labels(pair, config, palette), scale_of_image(config, pair.image)
            write_mask(folder.parent / "predictions" / f"{pair.stem}.png", labels, palette, mpp)
            write_mask(folder.parent / "truth" / f"{pair.stem}.png", truth, palette, mpp)
            if confidence is not None:
                calibration.add_confidence(confidence, truth)
            if quality is not None:
                calibration.quality[pair.stem] = quality
            progress.advance(1, image=pair.stem)
        calibration.write(folder)


def _fold_config(config: Config, pretrained: str | None) -> str:
    """Return the config of one fold: its paths are its folder's, and it has no validation images."""
    names = [name for name in type(config).model_fields if name not in AFTER_TRAINING]
    content: dict[str, dict[str, Any]] = {}
    for name in (*names, "tiledinfer"):
        section = config.section(name)
        given = {key: getattr(section, key) for key in type(section).model_fields if section.is_set(key)}
        content[name] = {key: str(one) if isinstance(one, Path) else one for key, one in given.items()}
    for key in ("images_dir", "output_dir"):
        content["tiledinfer"].pop(key, None)
    if pretrained is not None:
        content["train"]["pretrained"] = pretrained
    content["train"] |= {
        "images_dir": "train/images",
        "masks_dir": "train/masks",
        "model_dir": "models",
        "eval_dir": "eval",
        "break_file": "break_training",
        "use": "last",
        "epoch_change_infer": False,
        "epoch_change_tiled_infer": False,
    }
    return to_toml(make_config(content))


def predict(
    config: Config, model: Path, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, UInt8, UInt8 | None, QualityFlags | None]]:
    """Predict images with a model folder: as `segment` does where the scale is known, else raw labels.

    Yields each pair, its labels, and where the scale is known confidence and quality flags.
    """
    from glomtile.inference.image import TilingSettings, segment_image
    from glomtile.inference.predictor import KerasPredictor, PredictionSettings
    from glomtile.inference.segmenter import Segmenter
    from glomtile.models.folder import load_model_folder, read_card, read_whole

    settings = PredictionSettings.of_config(config)
    if read_whole(model, read_card).mpp is None:
        loaded, tiling = load_model_folder(model), TilingSettings.of_config(config)
        predictor = KerasPredictor(loaded.model, loaded.geometry, None, settings)
        for pair in pairs:
            yield pair, segment_image(read_image(pair.image), predictor, tiling).labels, None, None
        return
    segmenter = Segmenter.load(
        model,
        tta=settings.tta,
        threshold=settings.threshold,
        smoothing_px=settings.smoothing_px,
        min_expected_dice=min_expected_dice(config),
    )
    for pair in pairs:
        scale = working_scale(config, pair.image)
        assert scale is not None
        result = segmenter.segment(pair.image, mpp=scale[0])
        labels = crop(result.labels, Box(0, 0, *result.labels.shape))
        yield pair, labels, result.confidence, result.quality


def _score_run(run: CrossvalRun, began: float, progress: Progress) -> CrossvalResult:
    """Score the predictions of all folds, and add a row to the table of runs."""
    folders = tuple(run.folder / f"fold-{fold + 1}" for fold in range(run.folds))
    join_calibration(folders, run.folder)
    judged, trusted = run.pool.judged, run.pool.trusted
    scores = _score_images(run, run.folder, judged, progress)
    of_trusted = None
    if len(trusted) != len(judged):
        part = run.folder / TRUSTED
        for kind in ("predictions", "truth"):
            for pair in trusted:
                atomic.link(part / kind / f"{pair.stem}.png", run.folder / kind / f"{pair.stem}.png")
        of_trusted = _score_images(run, part, trusted, progress)
    table = _add_row(run, scores, of_trusted, time.perf_counter() - began)
    paths = (table, *scores.paths, *(of_trusted.paths if of_trusted else ()))
    return CrossvalResult(scores, of_trusted, folders, paths)


def _score_images(run: CrossvalRun, folder: Path, pairs: Sequence[Pair], progress: Progress) -> ScoreResult:
    groups = None
    if run.pool.grouped:
        rows = [[pair.stem, run.pool.groups[pair.stem]] for pair in pairs]
        groups = write_csv(folder / "groups.csv", ["stem", "group"], rows)
    scales = {pair.stem: scale_of_image(run.config, pair.image) for pair in pairs}
    for pair in pairs:
        atomic.link(folder / "images" / pair.image.name, pair.image)
        if run.against:
            mask = run.against[pair.stem]
            atomic.link(folder / "against" / mask.name, mask)
    return score(
        folder / "predictions",
        folder / "truth",
        folder,
        palette=run.config.palette(),
        groups=groups,
        mpp={stem: scale for stem, scale in scales.items() if scale is not None},
        images=folder / "images",
        against=folder / "against" if run.against else None,
        draws=run.config.eval.draws,
        progress=progress,
    )


def _add_row(run: CrossvalRun, scores: ScoreResult, trusted: ScoreResult | None, seconds: float) -> Path:
    """Write the run's row of ``runs.csv``, of the first class above 0, in place of an earlier one."""
    config, name = run.config, run.folder.name
    row: dict[str, Cell] = {
        "name": name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.source.name if config.source else "",
        "folds": run.folds,
        "epochs": config.train.epochs,
        "tta": config.tiledinfer.tta,
        "threshold": config.tiledinfer.threshold,
        "smoothing_px": config.tiledinfer.smoothing_px,
        "seconds": round(seconds, 1),
    }
    for prefix, result in (("", scores), (f"{TRUSTED}_", trusted)):
        if result is None:
            continue
        summary = result.scores.classes[0]
        row[f"{prefix}images"] = len(result.per_image)
        for figure_name in _RUN_FIGURES:
            figure = summary.figures[figure_name]
            for end, value in (("", figure.value), ("_low", figure.low), ("_high", figure.high)):
                row[f"{prefix}{figure_name}{end}"] = round(value, 4)
        row |= {f"{prefix}{count}": getattr(summary.total, count) for count in OBJECT_COUNTS}
    path = run.folder.parent / RUNS
    rows: list[Mapping[str, Cell]] = list(read_csv(path)) if path.is_file() else []
    rows = [*(earlier for earlier in rows if earlier.get("name") != name), row]
    columns = list(dict.fromkeys(column for one in rows for column in one))
    return write_csv(path, columns, [[one.get(column) for column in columns] for one in rows])
