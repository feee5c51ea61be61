"""Worker."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from glomtile.errors import GlomtileError, UsageError
from glomtile.inference.claims import Claim
from glomtile.io import atomic
from glomtile.system import processor
from glomtile.types import Progress

TOPIC = "glomtile"
"""Under this name workers tell how far they are."""

_TELL_EVERY_S = 1.0
_BRING_S = 5.0
_SEEN_WITHIN_S = 3.0
"""How long a file of one machine may take to show on another."""

Work = Callable[[Any, Progress], Any]


class Job(Protocol):
    """What a run is about; it goes to the workers in a message, so it holds plain values only.

    Attributes
    ----------
    stage, figure : str
        The steps of stages that begin with the first word are told, under the second.
    """

    stage: ClassVar[str]
    figure: ClassVar[str]

    @property
    def folder(self) -> Path:
        """A folder that all workers and the client share, by the same path; the crew's own."""
        ...

    def ready(self, threads: int) -> Work:
        """Load what each piece of work needs, computing with so many threads; called once a worker."""
        ...


@dataclass(frozen=True)
class Facts:
    """What a worker says of itself when it is ready."""

    versions: dict[str, str]
    threads: int
    processor: str


@dataclass(frozen=True)
class Answer:
    """What came of a piece of work.

    Attributes
    ----------
    value : object
    lines : tuple of (str, str)
        What was to be shown meanwhile: ``"note"`` or ``"warn"``, and the text.
    count : int
        Steps it took.
    """

    value: Any
    lines: tuple[tuple[str, str], ...]
    count: int


class NoSeat:
    """The answer of a worker not made ready for this run: it was started anew since, or the run ended.

    Also of one that was not to begin a piece any more; nobody waits for that answer.
    """


class WithdrawnError(GlomtileError):
    """The run that a piece of work belongs to has ended; what is done of it stays."""


@dataclass(frozen=True)
class _Seat:
    token: str
    mark: Path
    work: Work
    stage: str


_seat: _Seat | None = None
_begun = 0
_turn = threading.Lock()


def mark_path(folder: Path, token: str) -> Path:
    """The file that says that a run is under way; gone, its workers stop."""
    return folder / f"{token}.run"


def answer_path(folder: Path, token: str, name: str) -> Path:
    """Where a worker proves that the client sees what it writes."""
    return folder / f"{token}.{name}"


def claim_path(folder: Path, token: str, number: int) -> Path:
    """Where a piece that was handed out is claimed; the number is another each time."""
    return folder / f"{token}.{number}.claim"


def take_seat(job: Job, token: str, name: str) -> Facts:
    """Get ready; what an earlier run loaded here makes room.

    Raises
    ------
    UsageError
        The folder of results is not shared with the client.
    GlomtileError
        What `Job.ready` raises.
    """
    from distributed import get_worker

    from glomtile.models.folder import versions

    global _seat
    with _turn:
        _seat = None
        mark = mark_path(job.folder, token)
        _require_shared(mark, job.folder)
        atomic.write_text(answer_path(job.folder, token, name), token)
        threads = int(get_worker().state.nthreads)
        _seat = _Seat(token, mark, job.ready(threads), job.stage)
        return Facts(versions(), threads, processor())


def work_on(token: str, number: int, item: Any, claim: Claim) -> Answer | NoSeat:
    """Do one piece of work, after those that this process is busy with, unless it was taken back.

    Raises
    ------
    StorageError
        It cannot be claimed.
    Exception
        What the work raises.
    """
    global _begun
    with _turn:
        seat = _seat
        if seat is None or seat.token != token or not seat.mark.exists():
            return NoSeat()
        _begun += 1
        with atomic.storage_errors(claim.path):
            if not claim.made(_begun):
                return NoSeat()
        telling = _Telling(seat, number)
        value = seat.work(item, telling)
        answer = Answer(value, tuple(telling.lines), telling.count)
        _hand_in(token, answer)
        return answer


def _hand_in(token: str, answer: Answer) -> None:
    """Bring an answer to the scheduler, which passes it on: then this process may die of the next piece.

    Where that fails the answer lies here as Dask's results do, to be fetched.
    """
    from distributed import get_worker
    from distributed.protocol.serialize import Serialize
    from distributed.utils import sync

    worker: Any = get_worker()
    wrapped: Any = Serialize
    told = {"run": token, "task": worker.get_current_task(), "answer": wrapped(answer)}
    bring: Any = worker.scheduler.log_event
    with suppress(OSError, TimeoutError):
        sync(worker.loop, bring, topic=TOPIC, msg=told, callback_timeout=_BRING_S)


def asker() -> Callable[[], str | None]:
    """A function that tells a worker's version of glomtile, and needs none to be sent there."""

    def version_there() -> str | None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("glomtile")
        except PackageNotFoundError:
            return None

    return version_there


def dask_setup(worker: object) -> None:
    """Called by Dask in workers of this machine: Ctrl-C is the client's business, who ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_seat(token: str) -> None:
    """Let go of what a run loaded; work under way stops at its next step."""
    global _seat
    if _seat is not None and _seat.token == token:
        _seat = None


def _require_shared(mark: Path, folder: Path) -> None:
    until = time.monotonic() + _SEEN_WITHIN_S
    while not mark.exists():
        if time.monotonic() > until:
            raise UsageError(
                folder.parent.parent,
                "expected a folder that client and workers share, got one in which a worker does not find "
                "what the client wrote",
                "give --out (or --scratch, where that is a bucket) on a file system that all machines mount "
                "at the same place",
            )
        time.sleep(0.1)


class _Telling:
    """Progress of a piece of work: lines go back with the answer, steps are told now and then.

    Raises
    ------
    WithdrawnError
        From `advance`, when the run has ended.
    """

    def __init__(self, seat: _Seat, number: int) -> None:
        from distributed import get_worker

        self.lines: list[tuple[str, str]] = []
        self._worker, self._seat, self._number = get_worker(), seat, number
        self.count = 0
        self._counting, self._next = False, time.monotonic() + _TELL_EVERY_S

    def start(self, title: str, total: int | None = None) -> None:
        self._counting = title.startswith(self._seat.stage)

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        if self._counting:
            self.count += steps
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TELL_EVERY_S
        if _seat is not self._seat or not self._seat.mark.exists():
            raise WithdrawnError("worker", "expected a run to work for, got one that has ended")
        told = {"run": self._seat.token, "item": self._number, "count": self.count}
        self._worker.log_event(TOPIC, told)

    def note(self, text: str) -> None:
        self.lines.append(("note", text))

    def warn(self, text: str) -> None:
        self.lines.append(("warn", text))
