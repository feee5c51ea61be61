"""Worker pools on Dask: local workers and remote schedulers."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from glomtile.errors import MissingExtraError, UsageError
from glomtile.inference.crew import Crew
from glomtile.inference.seat import Job, mark_path
from glomtile.io import atomic
from glomtile.system import cores
from glomtile.types import SILENT, Progress


@dataclass(frozen=True)
class Cluster:
    """Where work is to be done.

    Attributes
    ----------
    scheduler : str or None
        Address of a Dask scheduler that runs, ``tcp://host:8786``.
    workers : int or None
        Without a scheduler: so many processes on this machine, which share its cores.
    """

    scheduler: str | None = None
    workers: int | None = None

    def __str__(self) -> str:
        if self.scheduler is not None:
            return f"the workers of {self.scheduler}"
        return f"{self.workers} worker{'s' if self.workers != 1 else ''} on this machine"


@contextmanager
def crew_of(cluster: Cluster, job: Job, progress: Progress = SILENT) -> Iterator[Crew]:
    """The workers of a cluster, ready for a job.

    Parameters
    ----------
    cluster : Cluster
    job : Job
    progress : Progress

    Raises
    ------
    UsageError
        No scheduler is reached at the address, or the number of workers is none.
    MissingExtraError
        Dask is not installed.
    StorageError
        The job's folder cannot be written.
    """
    _require_dask()
    token = secrets.token_hex(8)
    with atomic.storage_errors(job.folder):
        # Marks of earlier runs: workers that still work for one see that it has ended.
        shutil.rmtree(job.folder, ignore_errors=True)
    atomic.write_text(mark_path(job.folder, token), "")
    try:
        with _loggers_silent(), _workplace(cluster) as (connect, revive):
            crew = Crew(connect, revive, cluster.workers or 1, job, token, progress)
            try:
                yield crew
            finally:
                crew.dismiss()
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)


def _require_dask() -> None:
    if find_spec("distributed") is None:
        raise MissingExtraError(
            "--workers, --scheduler",
            "expected dask.distributed to be installed, it is not",
            "pip install 'glomtile[cluster]'",
        )


@contextmanager
def _loggers_silent() -> Iterator[None]:
    """Dask's own lines would fall between ours; what they tell of, we tell."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _workplace(cluster: Cluster) -> Iterator[tuple[Callable[[float], Any], Callable[[int], None]]]:
    """What gives a client, and what brings workers where some have been missing for long."""
    import distributed

    connect: Any = distributed.Client
    local_cluster: Any = distributed.LocalCluster

    if cluster.scheduler is not None:
        _require_address(cluster.scheduler)
        yield (lambda within_s: connect(cluster.scheduler, timeout=within_s, set_as_default=False)), _nothing
        return
    wanted = cluster.workers or 0
    if wanted < 1:
        raise UsageError("--workers", f"expected at least 1, got {cluster.workers}")
    with local_cluster(
        n_workers=wanted,
        threads_per_worker=max(1, cores() // wanted),
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        memory_limit=0,  # the engine bounds its memory; Dask would end workers by a guess
        silence_logs=logging.CRITICAL,
        preload=["glomtile.inference.seat"],
    ) as local:

        def revive(missing: int) -> None:
            # Dask starts a dead worker anew, unless it died before its own start was told.
            local.scale(len(local.workers) + missing)

        yield (lambda within_s: connect(local, timeout=within_s, set_as_default=False)), revive


def _require_address(address: str) -> None:
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend

    try:
        get_backend(parse_address(address, strict=True)[0])
    except ValueError as problem:
        raise UsageError(
            "--scheduler", f"expected a Dask scheduler's address as tcp://host:8786, got {address!r}"
        ) from problem


def _nothing(missing: int) -> None:
    """Whose workers they are starts them anew."""
