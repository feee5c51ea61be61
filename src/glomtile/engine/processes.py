"""Samples made in processes beside training: how these are started and asked, and that they end with it.

A process is borrowed by the thread that waits for its sample (`engine.dataset.batches`), so that order,
number of batches ahead and errors are those of threads. It answers at the other end of a pipe, and ends when
this one is gone: with training, in whatever way that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue

from glomtile.engine.dataset import Sample, Source
from glomtile.errors import WorkerError

_BEGIN = "import sys; sys.path[:] = sys.argv[2:]; from glomtile.engine.processes import serve; serve()"

_LAST_WORDS_S = 10.0
"""How long a process whose pipe has ended may take to end too."""

_Question = tuple[int, int, int]
"""Which source, epoch, index."""

_Answer = Sample | tuple[Exception, str]
"""A sample; or what came instead, and its traceback."""


class SampleProcesses:
    """A context in which processes make the samples of some sources; they end with it.

    Asking the sources that it gives raises what the source itself raises, or `WorkerError` when a process has
    died. They are not to be asked when the context has ended.

    Parameters
    ----------
    sources : sequence of Source
        They can be pickled, of classes that can be imported. Each process has copies, with caches of their
        own; the sources themselves are not kept. Nothing is read from a file in this way.
    count : int
        Processes, at least 1. So many samples are under way at most, however many threads ask.
    """

    def __init__(self, sources: Sequence[Source], count: int) -> None:
        self._pickled = bytes(ForkingPickler.dumps(tuple(sources)))
        self._lengths = [len(source) for source in sources]
        self._count = count
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._loss: WorkerError | None = None

    def __enter__(self) -> list[Source]:
        try:
            for _ in range(self._count):
                self._processes.append(_Process(self._pickled))
                self._idle.put(self._processes[-1])
        except BaseException:
            self._end()
            raise
        return [_Elsewhere(self, number, length) for number, length in enumerate(self._lengths)]

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """At once, whatever they are at: they hold nothing that anyone needs."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.close()

    def _sample(self, question: _Question) -> Sample:
        process = self._idle.get()
        try:
            if self._loss is not None:  # one error is enough, and the first names the image
                raise WorkerError(self._loss.where, self._loss.message, self._loss.hint)
            answer = process.ask(question)
        except _GoneError as gone:
            self._loss = self._told(question, str(gone))
            raise self._loss from gone
        finally:
            self._idle.put(process)
        if isinstance(answer[0], Exception):
            raise answer[0] from _InProcess(answer[1])
        return answer

    def _origin(self, question: _Question) -> str:
        number, epoch, index = question
        source: Source = ForkingPickler.loads(self._pickled)[number]
        return source.origin(epoch, index)

    def _told(self, question: _Question, ending: str) -> WorkerError:
        number, _, index = question
        return WorkerError(
            self._origin(question),
            f"expected sample {index + 1} of {self._lengths[number]} from a process, which {ending}",
            "where memory runs out, the system kills: try fewer [dataset] workers, a smaller cache_mb, or "
            'worker_kind = "threads"',
        )


@dataclass(frozen=True)
class _Elsewhere:
    """A source whose samples the processes make."""

    processes: SampleProcesses
    number: int
    length: int

    def __len__(self) -> int:
        return self.length

    def sample(self, epoch: int, index: int) -> Sample:
        return self.processes._sample((self.number, epoch, index))

    def origin(self, epoch: int, index: int) -> str:
        return self.processes._origin((self.number, epoch, index))


class _GoneError(Exception):
    """A process has ended; the message says how."""


class _InProcess(Exception):  # noqa: N818  (the cause of an error, as it was told)
    """The traceback of an error in another process."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n\n{text}")


class _Process:
    """One process: it is asked for a sample at a time."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self._pipe, there = Pipe()
        with there:
            # A session of its own: Ctrl-C is for the process that trains, which ends this one.
            self._child = subprocess.Popen(  # noqa: S603  (this interpreter, these modules)
                [sys.executable, "-P", "-c", _BEGIN, str(there.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints is no result of the command
                pass_fds=[there.fileno()],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def ask(self, question: _Question) -> _Answer:
        """The answer; `_GoneError` says how the process has ended."""
        try:
            if self._greeting:
                self._pipe.send_bytes(self._greeting)
                self._greeting = b""
            self._pipe.send(question)
            answer: _Answer = self._pipe.recv()
        except (OSError, EOFError) as end:  # of the pipe, also within an answer
            raise _GoneError(self._ending()) from end
        except BaseException:
            self._child.kill()  # an answer that nobody waited for would be taken for the next one's
            raise
        return answer

    def _ending(self) -> str:
        """In words, how the process ended, whose pipe has."""
        try:
            code = self._child.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return "stopped answering"
        if code >= 0:
            return f"ended with exit code {code}"
        with suppress(ValueError):  # a signal that Python has no name for
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._child.wait()
        self._pipe.close()


def serve() -> None:
    """Answer questions until nobody is there to ask; what a process of `SampleProcesses` does."""
    import cv2

    cv2.setNumThreads(1)
    pipe: Connection = Connection(int(sys.argv[1]))
    with pipe, suppress(EOFError, OSError):  # training has ended; errors of samples are answers
        sources: tuple[Source, ...] = pipe.recv()
        while True:
            number, epoch, index = pipe.recv()
            pipe.send(_answer(sources[number], epoch, index))


def _answer(source: Source, epoch: int, index: int) -> _Answer:
    try:
        return source.sample(epoch, index)
    except Exception as error:  # whatever it is, the process that asked is told
        text = traceback.format_exc()
        return (error if _travels(error) else RuntimeError(f"{type(error).__name__}: {error}")), text


def _travels(error: Exception) -> bool:
    """Whether an error comes out of a pickle as what went in."""
    try:
        return type(ForkingPickler.loads(ForkingPickler.dumps(error))) is type(error)
    except Exception:  # an exception's own code runs here, which may do anything
        return False
