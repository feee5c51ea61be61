"""Cross-validation."""

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

from glomtile.config.fields import config_error
from glomtile.config.load import COMMAND_LINE, check_config, load_config, make_config
from glomtile.config.schema import Config
from glomtile.config.toml import to_toml
from glomtile.datasets.pairing import group_rows
from glomtile.datasets.splitting import deal_folds
from glomtile.errors import InputError, MissingExtraError, ModelError, UsageError
from glomtile.evaluation.calibration import CalibrationAccumulator, join_judged, min_expected_dice
from glomtile.evaluation.score import ScoreResult, score
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER, file_lock
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask, write_mask
from glomtile.io.tables import Cell, read_csv, write_csv
from glomtile.training.train import tell_of_changed_sources, tell_of_split
from glomtile.types import SILENT, Progress, UInt8

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.datasets.pairing import Pair
    from glomtile.evaluation.bootstrap import Figure
    from glomtile.inference.quality_control import QualityFlags
    from glomtile.models.pretrained import PretrainedWeights
    from glomtile.palette import Palette

MOST_RUNS = 1000

OF_EACH_RUN = ("train.model_dir", "train.eval_dir", "train.break_file", "train.use")
"""What a fold writes into its config whatever was asked."""


def variants(
    path: Path, overrides: Sequence[str], varied: Sequence[str], name: str | None = None
) -> dict[str, Config]:
    """The configs of a sweep.

    Parameters
    ----------
    path : Path
        The config that all have in common.
    overrides : sequence of str
        ``section.key=value``, for all of them.
    varied : sequence of str
        ``section.key=value``: one key's values are tried one after the other, several keys' in all
        combinations.
    name : str, optional
        What the names of runs begin with; the config's stem by default.

    Returns
    -------
    dict of str to Config
        By the run's name, ``<name>-<key>=<value>``, where what no folder may be called is ``_``.

    Raises
    ------
    UsageError
        A text without ``=``, a value given twice, a key that is set too or that each fold has of its own,
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
        if key in OF_EACH_RUN:
            raise UsageError(
                "--vary", f"expected a setting that moves figures, got {key}, which each fold has of its own"
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
    found: dict[str, Config] = {}
    for settings in combinations:
        config = load_config(path, [*overrides, *settings])
        called = "-".join([name or name_of(config), *(_in_a_name(setting) for setting in settings)])
        if called in found:
            raise UsageError("--vary", f"expected runs of different names, got {called} twice")
        found[called] = config
    return found


def _in_a_name(setting: str) -> str:
    """``train.epochs=20`` as ``epochs=20``, without quotes, of characters that any folder may have."""
    return re.sub(r"[^\w.+=,-]+", "_", re.sub("[\"']", "", setting.partition(".")[2]), flags=re.ASCII)


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
        As of `glomtile.evaluation.cross_validation.crossval`.
    cluster : Cluster, optional
        Whose workers take the folds of all runs, so that none waits for the last fold of a run. Without
        one, a run is trained and scored before the next begins.

    Returns
    -------
    dict of str to CrossvalResult

    Raises
    ------
    UsageError, InputError, ModelError, ClusterError
        See `crossval`; what can be told beforehand is told of all runs before the first is trained.
    """
    began = time.perf_counter()
    runs = {name: Run.begun(config, Path(out), name, folds, groups) for name, config in configs.items()}
    if cluster is not None:
        run_folds([run.job for run in runs.values()], folds, cluster, progress)
        return {name: run.judged(against, began, progress) for name, run in runs.items()}
    results: dict[str, CrossvalResult] = {}
    for name, run in runs.items():
        progress.note(f"run {len(results) + 1} of {len(runs)}: {name}")
        began = time.perf_counter()
        run_folds([run.job], folds, None, progress)
        results[name] = run.judged(against, began, progress)
    return results


TRAIN_ONLY, JUDGE_ONLY = "train", "judge"
AFTER_TRAINING = ("tiledinfer", "eval", "infer", "test", "valid")
"""Sections that may differ when a run is taken up again: no fold has to be trained anew for them."""

_FOLD_CONFIG, _HELD_OUT = "fold.toml", "held_out.json"


@dataclass(frozen=True)
class Pool:
    """The images of a cross-validation.

    Attributes
    ----------
    pairs : tuple of Pair
        In natural order of their names.
    groups : dict of str to str
        Of every image; an image of no known group is its own.
    use : dict of str to str
        ``"train"`` for images that are trained on in every fold and never judged, ``"judge"`` for images
        that are judged and never trained on (known label noise, say); others are both in turn.
    grouped : bool
        Whether somebody said so; else nobody knows which images come from one patient.
    """

    pairs: tuple[Pair, ...]
    groups: dict[str, str]
    use: dict[str, str]
    grouped: bool = True

    @property
    def judged(self) -> list[Pair]:
        """What is dealt to the folds."""
        return [pair for pair in self.pairs if self.use.get(pair.stem) != TRAIN_ONLY]

    @property
    def trusted(self) -> list[str]:
        """Stems that are both trained on and judged."""
        return [pair.stem for pair in self.pairs if pair.stem not in self.use]


@dataclass(frozen=True)
class FoldJob:
    """Training and predicting the folds of one run.

    Attributes
    ----------
    config : Config
    pool : Pool
    dealt : tuple of int
        The fold of each judged image.
    run : Path
        Folder of the run, as the workers see it.
    start : tuple of (str, str) or None
        The model that every fold begins with: its address as the workers see it, and its network's digest.
    """

    config: Config
    pool: Pool
    dealt: tuple[int, ...]
    run: Path
    start: tuple[str, str] | None = None

    def run_fold(self, fold: int, progress: Progress) -> None:
        """Train one fold and predict what it holds out; who still works on it is waited for."""
        held = [pair for pair, number in zip(self.pool.judged, self.dealt, strict=True) if number == fold]
        folder = self.run / f"fold-{fold + 1}"
        progress.note(
            f"fold {fold + 1} of {max(self.dealt) + 1}: {', '.join(pair.stem for pair in held)} held out"
        )
        with file_lock(self.run / PRIVATE_FOLDER / f"{folder.name}.lock", progress, wait=True):
            _run_fold(self, held, folder, progress)


@dataclass(frozen=True)
class FoldTask:
    """One fold of one run, as it is sent to a worker of a cluster."""

    job: FoldJob
    fold: int

    def __str__(self) -> str:
        return f"fold {self.fold + 1} of {self.job.run.name}"


def run_fold_on_worker(task: FoldTask, progress: Progress) -> None:
    """Train and predict with one fold in a worker of a cluster.

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
    task.job.run_fold(task.fold, progress)


def run_folds(jobs: Sequence[FoldJob], folds: int, cluster: Cluster | None, progress: Progress) -> None:
    """Each fold of each run here, one after the other, or all of them on the workers of a cluster."""
    tell_of_split(jobs[0].config, progress)
    tell_of_changed_sources(jobs[0].config, "train", progress)
    for name in dict.fromkeys(job.config.train.pretrained for job in jobs):
        if name is not None:
            progress.warn(
                f"every fold begins with the weights of {name}: figures are out of fold only for images "
                "that it has not learned from either"
            )
    if cluster is None:
        for job in jobs:
            for fold in range(folds):
                job.run_fold(fold, progress)
        return
    from glomtile.cluster import run_tasks

    tasks = [FoldTask(job, fold) for job in jobs for fold in range(folds)]
    of_runs = f" of {len(jobs)} runs" if len(jobs) > 1 else ""
    progress.note(f"{len(tasks)} folds{of_runs} for {cluster}")
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(file_lock(job.run / PRIVATE_FOLDER / "lock", progress))
        progress.start("folds", len(tasks))
        results = held.enter_context(closing(run_tasks(run_fold_on_worker, tasks, cluster, progress)))
        for _, problem in results:
            progress.advance(1)
            if problem is not None:
                raise problem


def _run_fold(job: FoldJob, held: Sequence[Pair], folder: Path, progress: Progress) -> None:
    """Train on all others, as far as that is not done, and predict what is held out."""
    from glomtile.datasets.loading import scale_of_image
    from glomtile.training.train import train

    config, pool, palette = job.config, job.pool, job.config.palette()
    left = {pair.stem for pair in held}
    learnt = [p for p in pool.pairs if p.stem not in left and pool.use.get(p.stem) != JUDGE_ONLY]
    for pair in learnt:
        atomic.link(folder / "train" / "images" / pair.image.name, pair.image)
        atomic.link(folder / "train" / "masks" / pair.mask.name, pair.mask)
    atomic.write_json(folder / _HELD_OUT, [pair.stem for pair in held])
    atomic.write_text(folder / _FOLD_CONFIG, _fold_config(config, job.start[0] if job.start else None))
    fold_config = load_config(folder / _FOLD_CONFIG)
    if job.start is not None:
        _require_same_start(fold_config, *job.start)
    atomic.restore_folder(folder / "models" / "last")
    begun = (folder / "models" / "last").is_dir()
    train(fold_config, resume=begun, progress=progress)
    out = folder.parent
    progress.start("held-out images", len(held))
    judged = CalibrationAccumulator(palette)
    for pair, said in predictions(config, folder / "models" / "last", held):
        truth, mpp = _truth(pair, config, palette), scale_of_image(config, pair.image)
        write_mask(out / "predictions" / f"{pair.stem}.png", said.labels, palette, mpp)
        write_mask(out / "truth" / f"{pair.stem}.png", truth, palette, mpp)
        if said.confidence is not None:
            judged.add_confidence(said.confidence, truth)
        if said.doubts is not None:
            judged.doubts[pair.stem] = said.doubts
        progress.advance(1, image=pair.stem)
    judged.write(folder)


def _require_same_start(config: Config, address: str, digest: str) -> None:
    """Folds are compared, so they begin alike, whatever was saved at the place meanwhile."""
    from glomtile.models.pretrained import beginning

    found = beginning(config)
    if found is None or found.digest != digest:
        raise ModelError(
            address,
            f"expected the network that the run began with, {digest[:12]}…, got "
            + (f"{found.digest[:12]}…" if found else "none"),
            "put it back, or begin a run of another --name",
        )


def _fold_config(config: Config, start: str | None) -> str:
    """The config of one fold: its paths are its folder's, and no images judge its epochs."""
    content = {name: _given(config, name) for name in type(config).model_fields if name not in AFTER_TRAINING}
    content["tiledinfer"] = _given(config, "tiledinfer")
    for key in ("images_dir", "output_dir"):
        content["tiledinfer"].pop(key, None)
    if start is not None:
        content["train"]["pretrained"] = start
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


def _given(config: Config, name: str) -> dict[str, Any]:
    """The settings of a section that were written."""
    section = config.section(name)
    values = {key: getattr(section, key) for key in type(section).model_fields if section.is_set(key)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


@dataclass(frozen=True, eq=False)
class Said:
    """What a network says of an image: labels, and where it is known how sure it is and what to doubt."""

    labels: UInt8
    confidence: UInt8 | None = None
    doubts: QualityFlags | None = None


def predictions(config: Config, model: Path, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Said]]:
    """What a model folder says of images: as `segment` does where the scale is known, else raw labels."""
    from glomtile.datasets.loading import working_scale
    from glomtile.inference.image import segment_image
    from glomtile.inference.predictor import KerasPredictor, PredictionSettings
    from glomtile.inference.segmenter import Segmenter
    from glomtile.inference.window_size import TilingSettings
    from glomtile.models.folder import load_model_folder, read_card, read_whole
    from glomtile.types import Box, crop

    settings = PredictionSettings.of_config(config)
    if read_whole(model, read_card).mpp is None:
        loaded = load_model_folder(model)
        predictor = KerasPredictor(loaded.model, loaded.geometry, None, settings)
        for pair in pairs:
            yield (
                pair,
                Said(
                    segment_image(read_image(pair.image), predictor, TilingSettings.of_config(config)).labels
                ),
            )
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
        yield pair, Said(labels, result.confidence, result.quality)


def _truth(pair: Pair, config: Config, palette: Palette) -> UInt8:
    return read_mask(pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance)


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
        from glomtile.models.pretrained import beginning
        from glomtile.networks.losses import build_loss
        from glomtile.training.train import require_buildable

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
    from glomtile.datasets.loading import split_pairs

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


def _identity(
    config: Config, pool: Pool, dealt: Sequence[int], start: PretrainedWeights | None
) -> dict[str, Any]:
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
        atomic.write_json(path, identity)
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
            atomic.link(part / kind / f"{stem}.png", folder / kind / f"{stem}.png")
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
    from glomtile.datasets.loading import scale_of_image

    for stem in stems:
        atomic.link(folder / "images" / pairs[stem].image.name, pairs[stem].image)
    if against is not None:
        _link_masks(against, stems, folder / "against")
    groups = None
    if pool.grouped:
        groups = write_csv(
            folder / "groups.csv", ["stem", "group"], [[stem, pool.groups[stem]] for stem in stems]
        )
    scales = {stem: scale_of_image(config, pairs[stem].image) for stem in stems}
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
    from glomtile.io.images import list_images
    from glomtile.io.masks import MASK_SUFFIXES

    found = {path.stem: path for path in list_images(source, MASK_SUFFIXES)}
    missing = [stem for stem in stems if stem not in found]
    if missing:
        raise InputError(source, f"expected a mask for every image, got none for {', '.join(missing[:10])}")
    for stem in stems:
        atomic.link(target / found[stem].name, found[stem])


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
    return found | {
        f"{prefix}{name}": getattr(total, name)
        for name in ("true_positive", "false_positive", "false_negative")
    }
