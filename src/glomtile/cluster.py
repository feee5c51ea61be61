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


@contextmanager
def connect(cluster: Cluster) -> Iterator[Any]:
    """Give a Dask client of a cluster; local workers are started, and ended with the block.

    Raises
    ------
    UsageError
        No scheduler answers at the address, or the number of workers is below 1.
    MissingExtraError
        Dask is not installed.
    """
    option = "--scheduler" if cluster.scheduler else "--workers"
    for package in ("distributed", *(() if cluster.scheduler else ("cryptography",))):
        if find_spec(package) is None:
            raise MissingExtraError(
                option, f"expected {package} to be installed, it is not", "pip install 'glomtile[cluster]'"
            )
    import distributed
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend
    from distributed.security import Security

    make: Any = distributed.Client
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its lines would mix with the progress; failures are reported here
    try:
        if cluster.scheduler is None:
            workers = cluster.workers or 0
            if workers < 1:
                raise UsageError(option, f"expected at least 1, got {workers}")
            local: Any = distributed.LocalCluster
            temporary: Any = Security.temporary  # keys that live as long as the processes
            with (
                local(
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
                ) as processes,
                make(processes, timeout=_RECONNECT_S, set_as_default=False) as client,
            ):
                yield client
            return
        try:
            get_backend(parse_address(cluster.scheduler, strict=True)[0])
        except ValueError as problem:
            raise UsageError(
                option, f"expected a Dask scheduler's address as tcp://host:8786, got {cluster.scheduler!r}"
            ) from problem
        try:
            client = make(cluster.scheduler, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as problem:
            raise UsageError(
                option,
                f"expected a Dask scheduler that answers within {_CONNECT_S:.0f} s, got none: {problem}",
                "is it running, can this machine reach it, and does it want TLS?",
            ) from problem
        with client:
            yield client
    finally:
        logger.setLevel(level)


def run_tasks(
    client: Any,
    function: Callable[[Task, Progress], Result],
    tasks: Iterable[Task],
    progress: Progress,
) -> Generator[tuple[Task, Result | GlomtileError]]:
    """Run a function on the workers of a cluster, one task a worker at a time.

    Parameters
    ----------
    client : dask.distributed.Client
        See `connect`.
    function : callable
        ``function(task, progress)``, run in a worker. It is pickled: a function of a module, or a
        `functools.partial` of one with plain values. Its notes and warnings return with its result.
    tasks : iterable
        Values that can be pickled; ``str()`` of a task names it in messages.
    progress : Progress
        Receives notes and warnings of each task that has ended.

    Yields
    ------
    (task, result or GlomtileError)
        In the order in which tasks end. An error of glomtile that `function` raises is given as it is; a task
        that fails otherwise twice, or whose worker dies twice, is a `ClusterError`.

    Raises
    ------
    ClusterError
        The connection to the scheduler was lost.

    Notes
    -----
    There are never more tasks submitted than workers. So a task never waits behind another on a busy worker,
    Dask blames the right task when a worker dies, and no task is pinned to a worker that may not return.
    """
    from distributed.scheduler import KilledWorker

    waiting = ((task, 1) for task in tasks)
    again: deque[tuple[Any, int]] = deque()
    running: dict[str, tuple[Any, Task, int]] = {}
    ended: SimpleQueue[Any] = SimpleQueue()
    polls = 0
    while True:
        while client.status == "connecting":  # again
            sleep(0.1)
        if client.status != "running":
            raise ClusterError(
                "scheduler", "expected it to answer, got no connection", "run again: finished work is kept"
            )
        workers = len(client.nthreads())
        while len(running) < max(1, workers) and (new := again.popleft() if again else next(waiting, None)):
            task, attempt = new
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
        except (Exception, CancelledError) as problem:  # cancelled where the scheduler was lost
            died = isinstance(problem, KilledWorker)
            reason = "the worker died" if died else f"{type(problem).__name__}: {problem}"
            if attempt < ATTEMPTS:
                progress.note(f"{printable(task)}: {reason}; trying again")
                again.append((task, attempt + 1))
                continue
            yield (
                task,
                ClusterError(
                    printable(task),
                    f"expected a result within {ATTEMPTS} attempts, got: {reason}",
                    "run it alone, without --workers and --scheduler, to see why; often memory is short",
                ),
            )
        else:
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
