"""The folds of cross-validations: each trained on all others' images, here or on a worker, and predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from glomtile.config.load import load_config, make_config
from glomtile.config.toml import to_toml
from glomtile.errors import ClusterError, MissingExtraError, ModelError
from glomtile.files import workspace
from glomtile.files.images import read_image
from glomtile.files.lock import sole_run
from glomtile.files.masks import read_mask, write_mask
from glomtile.types import Progress, UInt8
from glomtile.verbs.judgedimages import Judged, doubted_below
from glomtile.verbs.trainable import tell_of_changed_sources, tell_of_split

if TYPE_CHECKING:
    from glomtile.config.schema import Config
    from glomtile.core.palette import Palette
    from glomtile.engine.cluster import Cluster
    from glomtile.engine.doubts import Doubts
    from glomtile.files.pairs import Pair

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
        own = self.run / ".glomtile"
        with sole_run(own, progress, name=f"{folder.name}.lock", wait=True, given=self.run):
            _run_fold(self, held, folder, progress)


@dataclass(frozen=True)
class FoldJobs:
    """The folds of runs, as the workers of a cluster are told of them.

    Attributes
    ----------
    runs : tuple of FoldJob
        At least one.
    """

    runs: tuple[FoldJob, ...]

    stage: ClassVar[str] = "epoch"
    figure: ClassVar[str] = "batches"

    @property
    def folder(self) -> Path:
        """Where client and workers find each other's marks: with the first run."""
        return self.runs[0].run / ".glomtile" / "cluster"

    def ready(self, threads: int) -> Any:
        """Wake the backend, to compute with so many threads; an item is the number of a run and of a fold.

        Raises
        ------
        MissingExtraError
            The worker has no Keras to train with.
        """
        from glomtile.engine.greeting import greeting_held_back
        from glomtile.engine.threads import limit_threads

        if find_spec("keras") is None:
            raise MissingExtraError("worker", "expected Keras to train with, got an installation without it",
                                    "pip install 'glomtile[cpu]'")  # fmt: skip
        with greeting_held_back():
            limit_threads(threads, "keras")
        return self.run_fold

    def run_fold(self, item: tuple[int, int], progress: Progress) -> None:
        """Train and predict with one fold of one run."""
        run, fold = item
        self.runs[run].run_fold(fold, progress)


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
    from glomtile.engine.cluster import crew_of
    from glomtile.engine.crew import GivenUp

    items = [(run, fold) for run in range(len(jobs)) for fold in range(folds)]
    of_runs = f" of {len(jobs)} runs" if len(jobs) > 1 else ""
    progress.note(f"{len(items)} folds{of_runs} for {cluster}")
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(sole_run(job.run / ".glomtile", progress, given=job.run))
        crew = held.enter_context(crew_of(cluster, FoldJobs(tuple(jobs)), progress))
        progress.start("folds", len(items))
        for number, answer in crew.answers(items):
            progress.advance(1, **crew.figures())
            if isinstance(answer, GivenUp):
                run, fold = items[number]
                raise ClusterError(
                    f"fold {fold + 1} of {jobs[run].run.name}",
                    f"expected a worker that lives through it, got {answer.deaths} that died at it",
                    "have they memory enough? the same line goes on from the last epoch",
                )


def _run_fold(job: FoldJob, held: Sequence[Pair], folder: Path, progress: Progress) -> None:
    """Train on all others, as far as that is not done, and predict what is held out."""
    from glomtile.engine.sources import scale_of_picture
    from glomtile.verbs.train import train

    config, pool, palette = job.config, job.pool, job.config.palette()
    left = {pair.stem for pair in held}
    learnt = [p for p in pool.pairs if p.stem not in left and pool.use.get(p.stem) != JUDGE_ONLY]
    for pair in learnt:
        workspace.link(folder / "train" / "images" / pair.image.name, pair.image)
        workspace.link(folder / "train" / "masks" / pair.mask.name, pair.mask)
    workspace.write_json(folder / _HELD_OUT, [pair.stem for pair in held])
    workspace.write_text(folder / _FOLD_CONFIG, _fold_config(config, job.start[0] if job.start else None))
    fold_config = load_config(folder / _FOLD_CONFIG)
    if job.start is not None:
        _require_same_start(fold_config, *job.start)
    begun = workspace.whole_folder(folder / "models" / "last").is_dir()
    train(fold_config, resume=begun, progress=progress)
    out = folder.parent
    progress.start("held-out images", len(held))
    judged = Judged(palette)
    for pair, said in predictions(config, folder / "models" / "last", held):
        truth, mpp = _truth(pair, config, palette), scale_of_picture(config, pair.image)
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
    from glomtile.engine.pretrained import beginning

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
    values = {key: getattr(section, key) for key in type(section).model_fields if section.given(key)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


@dataclass(frozen=True, eq=False)
class Said:
    """What a network says of an image: labels, and where it is known how sure it is and what to doubt."""

    labels: UInt8
    confidence: UInt8 | None = None
    doubts: Doubts | None = None


def predictions(config: Config, model: Path, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Said]]:
    """What a model folder says of images: as `segment` does where the scale is known, else raw labels."""
    from glomtile.engine.asking import Asking
    from glomtile.engine.modelfolder import load_model_folder, read_card, read_whole
    from glomtile.engine.pictures import segment_image
    from glomtile.engine.predictor import KerasPredictor
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.sources import working_scale
    from glomtile.files.planes import crop
    from glomtile.types import Box

    asking = Asking.of_config(config)
    if read_whole(model, read_card).mpp is None:
        loaded = load_model_folder(model)
        predictor = KerasPredictor(loaded.model, loaded.geometry, None, asking)
        for pair in pairs:
            yield pair, Said(segment_image(read_image(pair.image), predictor, config.tiledinfer).labels)
        return
    segmenter = Segmenter.load(
        model,
        tta=asking.tta,
        threshold=asking.threshold,
        smoothing_px=asking.smoothing_px,
        least_expected_dice=doubted_below(config),
    )
    for pair in pairs:
        scale = working_scale(config, pair.image)
        assert scale is not None
        result = segmenter.segment(pair.image, mpp=scale[0])
        labels = crop(result.labels, Box(0, 0, *result.labels.shape))
        yield pair, Said(labels, result.confidence, result.doubts)


def _truth(pair: Pair, config: Config, palette: Palette) -> UInt8:
    return read_mask(pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance)
