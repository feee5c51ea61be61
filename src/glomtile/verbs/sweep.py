"""Cross-validations of the same images with settings that vary: a run for each, their folds side by side."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from glomtile.config.findings import refusal
from glomtile.config.load import COMMAND_LINE, check_config, load_config
from glomtile.errors import UsageError
from glomtile.types import SILENT, Progress
from glomtile.verbs.crossval import CrossvalResult, Run, name_of
from glomtile.verbs.folds import run_folds

if TYPE_CHECKING:
    from glomtile.config.schema import Config
    from glomtile.engine.cluster import Cluster

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
        raise refusal(wrong)
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
        As of `glomtile.verbs.crossval.crossval`.
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
