"""How pieces of work are handed to workers that may die, come late or be unfit, and each ends once."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from glomtile.engine.modelfolder import versions
from glomtile.engine.seat import (
    TOPIC,
    Answer,
    Facts,
    Job,
    NoSeat,
    answer_path,
    leave_seat,
    mark_path,
    take_seat,
    work_on,
)
from glomtile.errors import ClusterError, GlomtileError, UsageError
from glomtile.types import Progress

MOST_DEATHS = 3
"""So many workers may die of a piece of work before it is given up."""

_LOOK_EVERY_S = 0.5
_LOOK_SHARE = 20
"""Asking for the workers may take one part in so many of the client's time."""

_REACH_S = 10.0
_RETURN_S = 120.0
"""How long a scheduler that was there may be away."""

_GATHER_S = 30.0
_SHORT_S = 20.0
_DIED, _FORGOTTEN = object(), object()


@dataclass(frozen=True)
class GivenUp:
    """Stands for the answer of a piece of work of which `deaths` workers died."""

    deaths: int


@dataclass
class _Worker:
    """A worker as the client knows it: asked who it is, getting ready, unfit, idle or at work on an item."""

    name: str
    stage: str = "asked"
    facts: Facts | None = None
    task: Any = None
    item: int | None = None
    reason: str = ""


class Crew:
    """Workers that are made ready for one job, as they come and go; see `crew_of`.

    Parameters
    ----------
    connect : callable
        Gives a client of the scheduler within so many seconds; called again when the scheduler was lost.
    revive : callable
        Brings so many workers more; called when some have been missing for long.
    wanted : int
        How many should be there.
    job : Job
    token : str
        Tells this run from others.
    progress : Progress

    Notes
    -----
    The client, not the scheduler, decides who does what: a worker gets its next piece when it has answered
    the last. So no slide waits behind one that takes hours, what is under way is bounded by the number of
    workers, and of whose work a worker died is known. It costs a message there and back a piece.
    """

    def __init__(
        self,
        connect: Callable[[float], Any],
        revive: Callable[[int], None],
        wanted: int,
        job: Job,
        token: str,
        progress: Progress,
    ) -> None:
        self._connect, self._revive, self._job, self._token, self._progress = (
            connect,
            revive,
            job,
            token,
            progress,
        )
        self._items: list[Any] = []
        self._waiting: deque[int] = deque()
        self._workers: dict[str, _Worker] = {}
        self._owners: dict[str, str] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._fallen: list[tuple[int, object]] = []
        self._steps: dict[int, int] = {}
        self._shown: dict[str, float | str] = {}
        self._warned: set[str] = set()
        self._ever_ready = False
        self._lost_early = 0
        self._next_look = 0.0
        self._wanted = wanted
        self._short_since: float | None = None
        self._told_alone = False
        try:
            self._client = self._met(_REACH_S)
        except (OSError, ValueError) as problem:
            raise UsageError(
                "--scheduler",
                f"expected a Dask scheduler that answers within {_REACH_S:.0f} s, got none: {problem}",
                "is it running, and may this machine reach it?",
            ) from problem

    @property
    def ready(self) -> dict[str, Facts]:
        """What the workers that are ready said of themselves, by their address."""
        return {address: worker.facts for address, worker in self._workers.items() if worker.facts}

    def answers(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Have each item worked on once, the first ones first.

        Parameters
        ----------
        items : sequence
            What `Job.ready`'s work takes.

        Yields
        ------
        (int, object)
            An item's number, and what its work returned or `GivenUp`; in the order in which they end.

        Raises
        ------
        UsageError
            No worker there is fit for the job.
        ClusterError
            The scheduler was lost and did not return, or workers die of getting ready.
        Exception
            What the work raised; other work is not waited for.
        """
        self._items = list(items)
        self._waiting = deque(range(len(items)))
        deaths: Counter[int] = Counter()
        ended = 0
        while ended < len(self._items):
            self._look()
            self._hand_out()
            for number, what in self._happened():
                if what is _DIED:
                    deaths[number] += 1
                if what is _FORGOTTEN or (what is _DIED and deaths[number] < MOST_DEATHS):
                    self._waiting.appendleft(number)
                    continue
                ended += 1
                if isinstance(what, Answer):
                    self._steps[number] = what.count
                    for kind, text in what.lines:
                        (self._progress.warn if kind == "warn" else self._progress.note)(text)
                yield number, what.value if isinstance(what, Answer) else GivenUp(deaths[number])

    def more(self, items: Sequence[Any]) -> range:
        """Add items, to be worked on before those that wait; their numbers."""
        numbers = range(len(self._items), len(self._items) + len(items))
        self._items += items
        self._waiting.extendleft(reversed(numbers))
        return numbers

    def present(self) -> int:
        """How many workers the scheduler knows now, ready or not."""
        return len(self._client.nthreads())

    def figures(self) -> dict[str, float | str]:
        """Steps that were told, and how many workers are ready."""
        return {self._job.figure: f"{sum(self._steps.values()):,}", "workers": str(len(self.ready))}

    def dismiss(self) -> None:
        """Let the workers go: what they loaded is freed, work under way ends at its next step."""
        mark_path(self._job.folder, self._token).unlink(missing_ok=True)
        if self._client.status == "running" and self._workers:
            self._client.run(
                leave_seat, self._token, workers=list(self._workers), wait=False, on_error="ignore"
            )
        self._close(_REACH_S)

    def _close(self, within_s: float) -> None:
        """Close the client; where the scheduler is gone that may not come to an end, and nothing is lost."""
        with suppress(TimeoutError):
            self._client.close(timeout=within_s)

    def _met(self, within_s: float) -> Any:
        client = self._connect(within_s)
        client.subscribe_topic(TOPIC, self._hear)
        return client

    def _hear(self, event: tuple[float, Any]) -> None:
        """Take up how far a worker is; called in Dask's thread."""
        _, told = event
        if isinstance(told, dict) and told.get("run") == self._token:
            self._steps[told["item"]] = told["count"]

    def _look(self) -> None:
        """See which workers came and which are gone, and begin to make the new ones ready."""
        began = time.monotonic()
        if began < self._next_look:
            return
        try:
            if self._client.status != "running":
                raise ConnectionError(self._client.status)
            there: dict[str, int] = self._client.nthreads()
        except OSError as problem:
            self._find_scheduler(problem)
            return
        for address in [known for known in self._workers if known not in there]:
            self._bury(address)
        for address in there:
            if address not in self._workers:
                worker = self._workers[address] = _Worker(secrets.token_hex(4))
                self._give(address, worker, _asker())
        self._judge()
        ended = time.monotonic()
        self._next_look = ended + max(_LOOK_EVERY_S, _LOOK_SHARE * (ended - began))

    def _find_scheduler(self, lost: OSError) -> None:
        """Take up with a scheduler that was lost; work that was handed out is handed out again."""
        self._progress.warn(f"the scheduler was lost ({lost}); waiting {_RETURN_S:.0f} s for it to return")
        self._fallen += [(w.item, _FORGOTTEN) for w in self._workers.values() if w.item is not None]
        self._workers.clear()
        self._owners.clear()
        self._close(1.0)
        try:
            self._client = self._met(_RETURN_S)
        except (OSError, ValueError) as problem:
            raise ClusterError(
                "scheduler",
                f"expected it to return within {_RETURN_S:.0f} s, got: {problem}",
                "what is finished is kept: the same line goes on from there",
            ) from problem

    def _bury(self, address: str, fate: object = _DIED) -> None:
        """Forget a worker; what it has in hand meets that fate."""
        worker = self._workers.pop(address)
        if worker.task is not None:
            self._owners.pop(worker.task.key, None)
            worker.task.release()
        if worker.item is not None:
            self._fallen.append((worker.item, fate))
        elif worker.stage in ("asked", "preparing"):
            self._lost_early += 1

    def _judge(self) -> None:
        """Raise where nobody can be expected to do the work, say so where nobody is there yet."""
        stages = {worker.stage for worker in self._workers.values()}
        if stages == {"unfit"}:
            reasons = [f"{address}: {worker.reason}" for address, worker in self._workers.items()]
            raise UsageError("workers", f"expected at least one fit for this run, got none of {len(reasons)}",
                             "; ".join(dict.fromkeys(reasons[:3])))  # fmt: skip
        if self._lost_early >= MOST_DEATHS and not self._ever_ready:
            raise ClusterError(
                "workers",
                f"expected one that lives through loading the model, got {self._lost_early} dead ones",
                "have they memory enough? their own logs say more",
            )
        self._miss(time.monotonic())

    def _miss(self, now: float) -> None:
        """Have workers brought that have been missing for long, and say so where nobody is there."""
        if len(self._workers) >= self._wanted:
            self._short_since, self._told_alone = None, False
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since > _SHORT_S:
            self._short_since = now
            if not self._workers and not self._told_alone:
                self._told_alone = True
                self._progress.note("no worker there; waiting for one")
            self._revive(self._wanted - len(self._workers))

    def _hand_out(self) -> None:
        for address, worker in self._workers.items():
            self._hand_next(address, worker)

    def _hand_next(self, address: str, worker: _Worker) -> None:
        if self._waiting and worker.stage == "ready" and worker.item is None:
            worker.item = self._waiting.popleft()
            self._give(address, worker, work_on, self._token, worker.item, self._items[worker.item])

    def _give(self, address: str, worker: _Worker, function: Callable[..., Any], *values: Any) -> None:
        key = f"glomtile-{worker.stage}-{secrets.token_hex(8)}"
        worker.task = self._client.submit(
            function, *values, key=key, workers=[address], allow_other_workers=False, pure=False
        )
        self._owners[key] = address
        worker.task.add_done_callback(self._ended.put)

    def _happened(self) -> Iterator[tuple[int, object]]:
        """What became of items that were handed out; waits a little for it."""
        yield from self._fallen
        self._fallen.clear()
        wait = True
        while True:
            try:
                task = self._ended.get(timeout=_LOOK_EVERY_S) if wait else self._ended.get_nowait()
            except Empty:
                self._show()
                return
            wait = False
            address = self._owners.pop(task.key, None)
            if address is None:
                continue
            worker = self._workers[address]
            worker.task = None
            if worker.item is None:
                self._make_ready(address, worker, task)
                continue
            number, worker.item = worker.item, None
            if task.status == "finished":
                # It works on while its answer is fetched and looked at.
                self._hand_next(address, worker)
            what = self._result(task)
            if isinstance(what, NoSeat):
                what = _DIED
            if what is _DIED or what is _FORGOTTEN:
                # What it was given since has not been begun, or is done again.
                self._bury(address, _FORGOTTEN)
            yield number, what

    def _result(self, task: Any) -> object:
        """What a task returned or raised, or what became of it.

        A finished task of a worker that is gone is not fetched for ever: the work is done, and done again it
        is found so.
        """
        from distributed import KilledWorker

        if task.status in ("cancelled", "lost"):
            return _FORGOTTEN
        try:
            return task.result(timeout=_GATHER_S)
        except KilledWorker:
            return _DIED
        except TimeoutError:
            return _FORGOTTEN
        finally:
            task.release()

    def _make_ready(self, address: str, worker: _Worker, task: Any) -> None:
        try:
            what = self._result(task)
        except Exception as problem:  # whatever a foreign installation raises makes it unfit
            named = "" if isinstance(problem, GlomtileError) else f"{type(problem).__name__}: "
            self._unfit(address, worker, f"{named}{problem}")
            return
        if what is _DIED or what is _FORGOTTEN:
            self._workers.pop(address)
            self._lost_early += what is _DIED
        elif worker.stage == "asked":
            self._compare(address, worker, what)
        elif isinstance(what, Facts):
            if not answer_path(self._job.folder, self._token, worker.name).exists():
                self._unfit(address, worker, "what it wrote in the folder of results is not seen here")
                return
            worker.stage, worker.facts, self._ever_ready = "ready", what, True

    def _compare(self, address: str, worker: _Worker, said: object) -> None:
        """Go on with a worker of our version: what is sent to another may not mean the same there."""
        ours = versions().get("glomtile")
        if said != ours:
            got = f"glomtile {said}" if said else "an installation without glomtile"
            self._unfit(address, worker, f"expected glomtile {ours}, got {got}")
            return
        worker.stage = "preparing"
        self._give(address, worker, take_seat, self._job, self._token, worker.name)

    def _unfit(self, address: str, worker: _Worker, reason: str) -> None:
        worker.stage, worker.reason = "unfit", reason
        if reason not in self._warned:
            self._warned.add(reason)
            self._progress.warn(f"worker {address} is left out: {reason}")

    def _show(self) -> None:
        figures = self.figures()
        if figures != self._shown:
            self._shown = figures
            self._progress.advance(0, **figures)


def _asker() -> Callable[[], str | None]:
    """A function that tells a worker's version of glomtile, and needs none to be sent there."""

    def version_there() -> str | None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("glomtile")
        except PackageNotFoundError:
            return None

    return version_there
