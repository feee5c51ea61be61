"""Tasks on Dask: local worker processes and remote schedulers."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, TypeVar

from glomtile.errors import ClusterError, GlomtileError, MissingExtraError, UsageError
from glomtile.formatting import printable
from glomtile.system import cores
from glomtile.types import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 2
"""Attempts at a task whose worker died, or which failed outside glomtile."""

_CONNECT_S = 10.0
_RECONNECT_S = 30.0
_POLL_S = 1.0
_WARN_AFTER_POLLS = 10

_NONE: Any = object()
_turn = threading.Lock()


@dataclass(frozen=True)
class Cluster:
    """Dask workers that a run uses.

    Attributes
    ----------
    scheduler : str or None
        Address of a running Dask scheduler, ``tcp://host:8786`` or ``tls://host:8786``. Keys and certificates
        for TLS are those of Dask's configuration.
    workers : int or None
        Without a scheduler: number of processes on this machine, which share its cores.
    """

    scheduler: str | None = None
    workers: int | None = None

    def __str__(self) -> str:
        if self.scheduler is not None:
            return f"the workers of {self.scheduler}"
        return f"{self.workers} worker{'s' if self.workers != 1 else ''} on this machine"


class RunCancelledError(Exception):
    """The client of a task has gone; raised in the worker."""


def run_tasks(
    function: Callable[[Task, Progress], Result],
    tasks: Iterable[Task],
    cluster: Cluster,
    progress: Progress,
) -> Generator[tuple[Task, Result | GlomtileError]]:
    """Run a function on the workers of a cluster, one task a worker at a time.

    Parameters
    ----------
    function : callable
        ``function(task, progress)``, run in a worker. It is pickled: a function of a module, or a
        `functools.partial` of one with plain values. Its notes and warnings return with its result.
    tasks : iterable
        Values that can be pickled; ``str()`` of a task names it in messages.
    cluster : Cluster
    progress : Progress
        Receives notes and warnings of each task that has ended.

    Yields
    ------
    (task, result or GlomtileError)
        In the order in which tasks end. An error of glomtile that `function` raises is given as it is; a task
        that fails otherwise twice, or whose worker dies twice, is a `ClusterError`.

    Raises
    ------
    UsageError
        No scheduler answers at the address.
    MissingExtraError
        Dask is not installed.
    ClusterError
        The connection to the scheduler was lost.

    Notes
    -----
    There are never more tasks submitted than workers. So a task never waits behind another on a busy worker,
    Dask blames the right task when a worker dies, and no task is pinned to a worker that may not return.
    """
    with connect(cluster) as client:
        yield from run_on(client, function, tasks, progress)


@contextmanager
def connect(cluster: Cluster) -> Iterator[Any]:
    """Give a Dask client of a cluster; local workers are started, and ended with the block.

    Raises
    ------
    UsageError, MissingExtraError
        See `run_tasks`.
    """
    for package in ("distributed", *(() if cluster.scheduler else ("cryptography",))):
        if find_spec(package) is None:
            raise MissingExtraError(
                "--scheduler" if cluster.scheduler else "--workers",
                f"expected {package} to be installed, it is not",
                "pip install 'glomtile[cluster]'",
            )
    import distributed

    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its lines would mix with the progress; failures are reported here
    try:
        if cluster.scheduler is not None:
            with _remote_client(cluster.scheduler) as client:
                yield client
        else:
            with _local_cluster(cluster.workers or 0) as local:
                make: Any = distributed.Client
                with make(local, timeout=_RECONNECT_S, set_as_default=False) as client:
                    yield client
    finally:
        logger.setLevel(level)


def run_on(
    client: Any,
    function: Callable[[Task, Progress], Result],
    tasks: Iterable[Task],
    progress: Progress,
) -> Generator[tuple[Task, Result | GlomtileError]]:
    """Run tasks on the workers of a client of `connect`; see `run_tasks`."""
    waiting = iter(tasks)
    ready: deque[tuple[Any, int]] = deque()
    running: dict[str, tuple[Any, Task, int]] = {}
    ended: SimpleQueue[Any] = SimpleQueue()
    polls = 0
    while True:
        _require_scheduler(client)
        workers = len(client.nthreads())
        while len(running) < max(1, workers):
            if not ready and (new := next(waiting, _NONE)) is not _NONE:
                ready.append((new, 1))
            if not ready:
                break
            task, attempt = ready.popleft()
            key = f"glomtile-{secrets.token_hex(8)}"
            future = client.submit(_run_here, function, task, key=key, pure=False)
            running[key] = future, task, attempt
            future.add_done_callback(ended.put)
        if not running:
            return
        try:
            key = ended.get(timeout=_POLL_S).key
        except Empty:
            polls = 0 if workers else polls + 1
            if polls == _WARN_AFTER_POLLS:
                progress.warn("the scheduler has no workers: waiting for them")
            continue
        future, task, attempt = running.pop(key)
        try:
            result, lines = future.result()
        except GlomtileError as problem:
            yield task, problem
            continue
        except (Exception, CancelledError) as problem:  # cancelled where the scheduler was lost
            reason = _describe(problem)
            if attempt < ATTEMPTS:
                progress.note(f"{printable(task)}: {reason}; trying again")
                ready.append((task, attempt + 1))
            else:
                yield (
                    task,
                    ClusterError(
                        printable(task),
                        f"expected a result within {ATTEMPTS} attempts, got: {reason}",
                        "run it alone, without --workers and --scheduler, to see why; often memory is short",
                    ),
                )
            continue
        for kind, text in lines:
            (progress.warn if kind == "warn" else progress.note)(text)
        yield task, result


def worker_threads() -> int:
    """Return the number of threads that a task may use, in a worker."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in a local worker: the client ends it. Dask calls this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_here(function: Callable[[Task, Progress], Result], task: Task) -> tuple[Result, list[Any]]:
    """Run one task in this worker; tasks of one process take turns."""
    with _turn:
        progress = _WorkerProgress()
        return function(task, progress), progress.lines


class _WorkerProgress:
    """Progress of a task in a worker; keeps notes and warnings, and notices that the client has gone."""

    def __init__(self) -> None:
        from distributed import get_worker

        worker: Any = get_worker()
        self.lines: list[tuple[str, str]] = []
        self._key, self._tasks = worker.get_current_task(), worker.state.tasks

    def start(self, title: str, total: int | None = None) -> None:
        pass

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        task = self._tasks.get(self._key)
        if task is None or task.state == "cancelled":
            raise RunCancelledError("the client of this task has gone")

    def note(self, text: str) -> None:
        self.lines.append(("note", text))

    def warn(self, text: str) -> None:
        self.lines.append(("warn", text))


@contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Start processes on this machine; connections are encrypted with keys that live as long as they do."""
    import distributed
    from distributed.security import Security

    if workers < 1:
        raise UsageError("--workers", f"expected at least 1, got {workers}")
    make: Any = distributed.LocalCluster
    temporary: Any = Security.temporary
    with make(
        n_workers=workers,
        threads_per_worker=max(1, cores() // workers),
        host="127.0.0.1",
        security=temporary(),
        scheduler_kwargs={
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "allowed_failures": 0,  # attempts are counted by the client
        },
        memory_limit=0,  # the engine bounds its memory; Dask would end workers by an estimate
        silence_logs=logging.CRITICAL,
        preload=["glomtile.cluster"],
    ) as local:
        yield local


@contextmanager
def _remote_client(address: str) -> Iterator[Any]:
    import distributed
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend

    try:
        get_backend(parse_address(address, strict=True)[0])
    except ValueError as problem:
        raise UsageError(
            "--scheduler", f"expected a Dask scheduler's address as tcp://host:8786, got {address!r}"
        ) from problem
    make: Any = distributed.Client
    try:
        client = make(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as problem:
        raise UsageError(
            "--scheduler",
            f"expected a Dask scheduler that answers within {_CONNECT_S:.0f} s, got none: {problem}",
            "is it running, can this machine reach it, and does it want TLS?",
        ) from problem
    with client:
        yield client


def _require_scheduler(client: Any) -> None:
    """Wait for a client that reconnects."""
    while client.status == "connecting":
        sleep(0.1)
    if client.status != "running":
        raise ClusterError(
            "scheduler", "expected it to answer, got no connection", "run again: finished work is kept"
        )


def _describe(problem: BaseException) -> str:
    from distributed.scheduler import KilledWorker

    if isinstance(problem, KilledWorker):
        return "the worker died"
    return f"{type(problem).__name__}: {problem}"
