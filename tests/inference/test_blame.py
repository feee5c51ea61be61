"""Who is to blame for a worker's death, and whose a piece is: a crew whose workers the test plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("distributed")

from glomtile.errors import ClusterError
from glomtile.inference import crew as module
from glomtile.inference import hands
from glomtile.inference.crew import Crew, GivenUp
from glomtile.inference.seat import Answer, Facts, NoSeat, answer_path, take_seat, work_on
from glomtile.models.folder import versions
from glomtile.types import SILENT

TOKEN = "run"


class Task:
    """Stands for Dask's future."""

    def __init__(self, key: str) -> None:
        self.key, self.status, self.value = key, "pending", None
        self.ended: Callable[[Task], None] | None = None

    def add_done_callback(self, ended: Callable[[Task], None]) -> None:
        self.ended = ended
        if self.status != "pending":
            ended(self)

    def finish(self, value: Any) -> None:
        self.status, self.value = "finished", value
        if self.ended is not None:
            self.ended(self)

    def result(self, timeout: float) -> Any:
        if self.value is None:
            raise TimeoutError
        return self.value

    def release(self) -> None: ...


class Stage:
    """A client, its scheduler, and workers that do at each look what their next piece says.

    ``fine`` is answered; ``kills`` kills; ``lost`` is answered, and the worker dies of the next piece before
    its answer is fetched; ``strikes`` lets the worker die before it begins; ``long`` takes so many looks;
    ``stranger`` is answered by a process that was started anew there.
    """

    status = "running"

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self.queues: dict[str, list[tuple[Task, int, str, Any]]] = {}
        self.begun: list[tuple[str, int]] = []
        self.strikes = 0
        self.left: dict[int, int] = {}
        self._count = 0
        for _ in range(workers):
            self.bring()

    def bring(self) -> None:
        self._count += 1
        self.queues[f"worker {self._count}"] = []

    def subscribe_topic(self, topic: str, hear: Callable[[tuple[float, Any]], None]) -> None: ...

    def close(self, timeout: float) -> None: ...

    def nthreads(self) -> dict[str, int]:
        for address in list(self.queues):
            self._act(address)
        return dict.fromkeys(self.queues, 1)

    def submit(self, function: Any, *values: Any, key: str, workers: list[str], **_: Any) -> Task:
        task = Task(key)
        if function is take_seat:
            job, token, name = values
            answer_path(job.folder, token, name).touch()
            task.finish(Facts({}, 1, "played"))
        elif function is work_on:
            _, number, item, claim = values
            self.queues[workers[0]].append((task, number, item, claim))
        else:
            task.finish(versions()["glomtile"])
        return task

    def _die(self, address: str) -> None:
        del self.queues[address]
        self.bring()

    def _act(self, address: str) -> None:
        if self.strikes and self.queues[address]:
            self.strikes -= 1
            self._die(address)
            return
        while self.queues.get(address):
            task, number, item, claim = self.queues[address][0]
            if number not in self.left:
                if item == "stranger" and not any(n == number for _, n in self.begun):
                    self.begun.append((address, number))
                    del self.queues[address][0]
                    task.finish(NoSeat())
                    return
                if not claim.made(len(self.begun) + 1):
                    del self.queues[address][0]
                    continue
                self.begun.append((address, number))
                if item == "kills":
                    self._die(address)
                    return
                self.left[number] = 8 if item == "long" else 0
            if self.left[number]:
                self.left[number] -= 1
                return
            del self.left[number], self.queues[address][0]
            if item == "lost" and len([n for _, n in self.begun if n == number]) == 1:
                task.finish(None)
                continue
            task.finish(Answer(item, (), 1))
            return


class Errands:
    stage: ClassVar[str] = "windows"
    figure: ClassVar[str] = "windows"

    def __init__(self, folder: Path) -> None:
        self.folder = folder


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(module, "_GATHER_S", 0.01)
    monkeypatch.setattr(module, "MOST_DEATHS", 1)


def crew_on(stage: Stage) -> Crew:
    return Crew(lambda _: stage, lambda _: None, 1, Errands(stage.folder), TOKEN, SILENT)


def played(stage: Stage, items: list[str]) -> dict[int, Any]:
    """What becomes of each item, once."""
    answers = list(crew_on(stage).answers(items))
    assert len(answers) == len(items)
    return dict(answers)


def test_what_waited_in_a_dead_workers_hands_is_not_blamed(tmp_path: Path) -> None:
    """One death is enough to be given up here, and none of the innocent is."""
    items = ["fine", "fine", "kills", "fine", "kills", "kills", "fine", "fine"]
    stage = Stage(tmp_path)
    expected = {n: GivenUp(1) if item == "kills" else item for n, item in enumerate(items)}
    assert played(stage, items) == expected
    assert sorted(number for _, number in stage.begun) == list(range(len(items)))


def test_an_answer_that_was_lost_with_its_worker_blames_what_came_after(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert played(stage, ["fine", "lost", "kills", "fine"]) == {
        0: "fine",
        1: "lost",
        2: GivenUp(1),
        3: "fine",
    }
    assert [number for _, number in stage.begun].count(1) == 2


def test_a_worker_that_dies_before_it_begins_blames_nobody(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    crew = crew_on(stage)
    answers = crew.answers(["fine"] * 5)
    first = next(answers)
    stage.strikes = 3
    assert dict([first, *answers]) == dict.fromkeys(range(5), "fine")
    assert stage.strikes == 0


def test_workers_that_never_come_to_begin_end_the_run(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.strikes = 1_000
    with pytest.raises(ClusterError, match="lives to begin its work"):
        list(crew_on(stage).answers(["fine"] * 3))


def test_a_process_started_anew_at_the_same_address_did_not_begin_its_piece(tmp_path: Path) -> None:
    assert played(Stage(tmp_path), ["fine", "stranger", "fine"]) == {0: "fine", 1: "stranger", 2: "fine"}


def test_behind_a_long_piece_none_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that came late gets it, and nobody does it twice."""
    monkeypatch.setattr(hands, "AHEAD_S", 60.0)
    stage = Stage(tmp_path)
    crew = crew_on(stage)
    answers = crew.answers(["fine", "long", "fine", "fine"])
    first = next(answers)
    monkeypatch.setattr(hands, "AHEAD_S", 0.0)
    stage.bring()
    assert [number for number, _ in [first, *answers]] == [0, 2, 3, 1]
    assert sorted(number for _, number in stage.begun) == [0, 1, 2, 3]
    by = {number: address for address, number in stage.begun}
    assert by[1] == "worker 1"
    assert by[2] == by[3] == "worker 2"


def test_who_has_nothing_to_do_gets_what_waits_in_anothers_hands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "AHEAD_S", 60.0)
    stage = Stage(tmp_path)
    crew = crew_on(stage)
    answers = crew.answers(["fine", "long", "fine"])
    first = next(answers)
    stage.bring()
    assert [number for number, _ in [first, *answers]] == [0, 2, 1]
    assert ("worker 2", 2) in stage.begun
