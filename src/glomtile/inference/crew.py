"""Worker pool."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from glomtile.errors import ClusterError, GlomtileError, UsageError
from glomtile.inference.claims import Claim
from glomtile.inference.hands import Handed, Worker
from glomtile.inference.seat import (
    TOPIC,
    Answer,
    Facts,
    Job,
    answer_path,
    asker,
    claim_path,
    leave_seat,
    mark_path,
    take_seat,
    work_on,
)
from glomtile.models.folder import versions
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
    The client, not the scheduler, decides who does what: a worker is at one piece, and where its pieces are
    short the next is in its hands by the time it answers, so that it waits for no message. What is in hand is
    taken back from behind a piece that takes long, and where another worker has nothing to do. So no slide
    waits behind one that takes hours, what is under way is bounded by the number of workers, and of whose
    work a worker died is known: of what it began last (`Claim`), never of what waited in its hands.
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
        self._workers: dict[str, Worker] = {}
        self._owners: dict[str, str] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._fallen: list[tuple[int, object]] = []
        self._handed = 0
        self._steps: dict[int, int] = {}
        self._shown: dict[str, float | str] = {}
        self._warned: set[str] = set()
        self._ever_ready = self._ended_ever = False
        self._lost_early = self._lost_idle = 0
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
        """Take up an answer, or how far a worker is; called in Dask's thread."""
        _, told = event
        if not isinstance(told, dict) or told.get("run") != self._token:
            return
        if "answer" in told:
            self._ended.put((told["task"], told["answer"]))
        else:
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
                worker = self._workers[address] = Worker(secrets.token_hex(4))
                worker.task = self._give(address, worker.stage, asker())
        self._judge()
        ended = time.monotonic()
        self._next_look = ended + max(_LOOK_EVERY_S, _LOOK_SHARE * (ended - began))

    def _find_scheduler(self, lost: OSError) -> None:
        """Take up with a scheduler that was lost; work that was handed out is handed out again."""
        self._progress.warn(f"the scheduler was lost ({lost}); waiting {_RETURN_S:.0f} s for it to return")
        for address in list(self._workers):
            self._bury(address, _FORGOTTEN)
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
        """Forget a worker. What it was at meets that fate, what else is in its hands is to be done again."""
        worker = self._workers.pop(address)
        for task in [worker.task, *(handed.task for handed in worker.hand)]:
            if task is not None and self._owners.pop(task.key, None) is not None:
                task.release()
        at = worker.was_at()
        if worker.hand and at is None and fate is _DIED:
            self._lost_idle += 1
        self._fallen += [(handed.item, fate if handed is at else _FORGOTTEN) for handed in worker.hand]
        if not worker.hand and fate is _DIED and worker.stage in ("asked", "preparing"):
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
        if self._lost_idle >= MOST_DEATHS and not self._ended_ever:
            raise ClusterError(
                "workers",
                f"expected one that lives to begin its work, got {self._lost_idle} dead ones",
                "their own logs say more",
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
        """Give what waits to those with empty hands first, then ahead to those that are quick."""
        now = time.monotonic()
        idle = sum(worker.idle for worker in self._workers.values())
        for worker in self._workers.values():
            if len(worker.hand) > 1 and (worker.long_at(now) or idle > len(self._waiting)):
                self._take_back(worker)
        for most in (1, 2):
            for address, worker in self._workers.items():
                self._hand_next(address, worker, most)

    def _hand_next(self, address: str, worker: Worker, most: int = 2) -> None:
        if not self._waiting or not worker.takes(most):
            return
        item = self._waiting.popleft()
        claim = Claim(claim_path(self._job.folder, self._token, self._handed))
        self._handed += 1
        task = self._give(address, worker.stage, work_on, self._token, item, self._items[item], claim)
        worker.take(Handed(item, task, claim), time.monotonic())

    def _take_back(self, worker: Worker) -> None:
        """Let what waits in a worker's hands wait here again, unless it has just begun it."""
        handed = worker.give_back()
        if handed is not None:
            self._owners.pop(handed.task.key, None)
            handed.task.release()
            self._waiting.appendleft(handed.item)

    def _give(self, address: str, stage: str, function: Callable[..., Any], *values: Any) -> Any:
        key = f"glomtile-{stage}-{secrets.token_hex(8)}"
        task = self._client.submit(
            function, *values, key=key, workers=[address], allow_other_workers=False, pure=False
        )
        self._owners[key] = address
        task.add_done_callback(self._ended.put)
        return task

    def _happened(self) -> Iterator[tuple[int, object]]:
        """What became of items that were handed out; waits a little for it."""
        yield from self._fallen
        self._fallen.clear()
        wait = True
        while True:
            try:
                ended = self._ended.get(timeout=_LOOK_EVERY_S) if wait else self._ended.get_nowait()
            except Empty:
                self._show()
                return
            wait = False
            # An answer comes twice: brought by the worker, and as the result of its task.
            key, what = ended if isinstance(ended, tuple) else (ended.key, None)
            address = self._owners.pop(key, None)
            if address is None:
                continue
            worker = self._workers[address]
            handed = worker.put_down(key, time.monotonic())
            if handed is None:
                worker.task = None
                self._make_ready(address, worker, ended)
                continue
            if what is not None or ended.status == "finished":
                self._hand_next(address, worker)  # it works on while its answer is looked at
            what = what or self._result(ended, address)
            if isinstance(what, Answer):
                handed.claim.clear()
                self._ended_ever = True
                yield handed.item, what
                continue
            self._fall(address, worker, handed, what)

    def _fall(self, address: str, worker: Worker, handed: Handed, what: object) -> None:
        """Bury a worker that gave no answer to a piece.

        Where the answer was lost with the worker, that was at something else when it died. One that was not
        made ready never began it, or its process died of it and was started anew at the same address.
        """
        if what is _FORGOTTEN:
            self._fallen.append((handed.item, _FORGOTTEN))
            self._bury(address, _FORGOTTEN if self._is_there(address) else _DIED)
            return
        worker.hand.insert(0, handed)
        self._bury(address)

    def _is_there(self, address: str) -> bool:
        """Whether the scheduler knows a worker; so it is taken to be where the scheduler is lost."""
        try:
            return self._client.status != "running" or address in self._client.nthreads()
        except OSError:
            return True

    def _result(self, task: Any, address: str) -> object:
        """What a task returned or raised, or what became of it.

        A finished task of a worker that is gone is not fetched for ever: the work is done, and done again it
        is found so.
        """
        from distributed import KilledWorker

        if task.status in ("cancelled", "lost"):
            return _FORGOTTEN
        patience = _LOOK_EVERY_S
        try:
            while True:
                try:
                    return task.result(timeout=patience)
                except TimeoutError:
                    patience *= 2
                    if patience > _GATHER_S or not self._is_there(address):
                        return _FORGOTTEN
        except KilledWorker:
            return _DIED
        finally:
            task.release()

    def _make_ready(self, address: str, worker: Worker, task: Any) -> None:
        try:
            what = self._result(task, address)
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

    def _compare(self, address: str, worker: Worker, said: object) -> None:
        """Go on with a worker of our version: what is sent to another may not mean the same there."""
        ours = versions().get("glomtile")
        if said != ours:
            got = f"glomtile {said}" if said else "an installation without glomtile"
            self._unfit(address, worker, f"expected glomtile {ours}, got {got}")
            return
        worker.stage = "preparing"
        worker.task = self._give(address, worker.stage, take_seat, self._job, self._token, worker.name)

    def _unfit(self, address: str, worker: Worker, reason: str) -> None:
        worker.stage, worker.reason = "unfit", reason
        if reason not in self._warned:
            self._warned.add(reason)
            self._progress.warn(f"worker {address} is left out: {reason}")

    def _show(self) -> None:
        figures = self.figures()
        if figures != self._shown:
            self._shown = figures
            self._progress.advance(0, **figures)
