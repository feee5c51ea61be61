"""Worker processes.

A process is borrowed by the thread that waits for its sample (`engine.dataset.batches`), so that order,
number of batches ahead and errors are those of threads. It reads questions from one pipe and writes samples
to another, and ends where the first ends: with training, in whatever way that ends.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import IO, Any, NoReturn

from glomtile.errors import WorkerError
from glomtile.training.samples import Sample, Source

_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from glomtile.training.processes import serve; serve()"

_LAST_WORDS_S = 10.0
"""How long a process whose pipe has ended may take to end too."""

_LENGTH = struct.Struct("<Q")
"""Goes before each value, which a buffered pipe then reads in one piece."""

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
        own; the sources themselves are not kept.
    count : int
        Processes, at least 1. So many samples are under way at most, however many threads ask.
    """

    def __init__(self, sources: Sequence[Source], count: int) -> None:
        self._pickled = _packed(tuple(sources))
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
        # A session of its own: Ctrl-C is for the process that trains, which ends this one.
        self._child = subprocess.Popen(  # noqa: S603  (this interpreter, these modules)
            [sys.executable, "-P", "-c", _BEGIN, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same, in Windows' words
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._questions, self._answers = self._child.stdin, self._child.stdout

    def ask(self, question: _Question) -> _Answer:
        """The answer; `_GoneError` says how the process has ended."""
        try:
            if self._greeting:
                _send(self._questions, self._greeting)
                self._greeting = b""
            _send(self._questions, _packed(question))
            answer: _Answer = _receive(self._answers)
        except (OSError, EOFError) as end:  # of a pipe, also within an answer
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
        self._answers.close()
        with suppress(OSError):  # a question that was never read
            self._questions.close()


def _packed(value: Any) -> bytes:
    return bytes(ForkingPickler.dumps(value, 5))


def _send(pipe: IO[bytes], packed: bytes) -> None:
    pipe.write(_LENGTH.pack(len(packed)))
    pipe.write(packed)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """The next value, from a process of ours; `EOFError` when the pipe ends before its end."""
    length = pipe.read(_LENGTH.size)
    if len(length) == _LENGTH.size:
        packed = pipe.read(_LENGTH.unpack(length)[0])
        if len(packed) == _LENGTH.unpack(length)[0]:
            return ForkingPickler.loads(packed)
    raise EOFError


def serve() -> NoReturn:
    """Answer questions on standard input until it ends; what a process of `SampleProcesses` does."""
    import cv2

    questions, answers = _own_pipes()
    cv2.setNumThreads(1)
    try:
        sources: tuple[Source, ...] = _receive(questions)
        while True:
            number, epoch, index = _receive(questions)
            _send(answers, _packed(_answer(sources[number], epoch, index)))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # training has ended; an orderly exit would try to write what is left


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Both pipes, out of the way of what a library prints or reads."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, answers


def _answer(source: Source, epoch: int, index: int) -> _Answer:
    try:
        return source.sample(epoch, index)
    except Exception as error:  # whatever it is, the process that asked is told
        text = traceback.format_exc()
        return (error if _travels(error) else RuntimeError(f"{type(error).__name__}: {error}")), text


def _travels(error: Exception) -> bool:
    """Whether an error comes out of a pickle as what went in."""
    try:
        return type(ForkingPickler.loads(_packed(error))) is type(error)
    except Exception:  # an exception's own code runs here, which may do anything
        return False
