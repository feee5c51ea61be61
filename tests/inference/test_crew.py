"""Work on real workers: each piece ends once, whoever dies, and who is not fit is told why."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

distributed = pytest.importorskip("distributed")

from glomtile.cluster import Cluster, crew_of  # noqa: E402
from glomtile.errors import InputError, ModelError, UsageError  # noqa: E402
from glomtile.inference import crew as module  # noqa: E402
from glomtile.inference import seat  # noqa: E402
from glomtile.inference.claims import Claim  # noqa: E402
from glomtile.inference.crew import Crew, GivenUp  # noqa: E402
from glomtile.types import Progress  # noqa: E402


@dataclass(frozen=True)
class Errands:
    """Work whose items say what shall happen to the worker."""

    root: Path
    said: str = ""

    stage: ClassVar[str] = "windows"
    figure: ClassVar[str] = "windows"

    @property
    def folder(self) -> Path:
        return self.root / ".glomtile" / "cluster"

    def ready(self, threads: int) -> Any:
        if self.said:
            raise ModelError("model", self.said)
        with (self.root / "ready").open("a") as file:
            file.write(f"{os.getpid()} {threads}\n")
        return self.run

    def run(self, item: str, progress: Progress) -> str:
        progress.start("windows", 3)
        progress.advance(3)
        with (self.root / "begun").open("a") as file:
            file.write(f"{item}\n")
        if item == "kills" or (item == "kills once" and not self._seen(item)):
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "raises":
            raise ZeroDivisionError("of ours")
        progress.note(f"{item} is done")
        return item.upper()

    def _seen(self, item: str) -> bool:
        mark = self.root / f"{item} seen"
        seen = mark.exists()
        mark.touch()
        return seen


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, title: str, total: int | None = None) -> None: ...

    def advance(self, steps: int = 1, **figures: float | str) -> None: ...

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A scheduler and two worker processes."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0,
        silence_logs=50,
    ) as local:  # fmt: skip
        yield local.scheduler_address


@contextmanager
def crew_for(scheduler: str, job: Errands, told: Told) -> Iterator[Crew]:
    with crew_of(Cluster(scheduler), job, told) as crew:
        yield crew


def test_each_item_is_answered_once_by_workers_that_got_ready_once(scheduler: str, tmp_path: Path) -> None:
    told, items = Told(), [f"item {number}" for number in range(20)]
    with crew_for(scheduler, Errands(tmp_path), told) as crew:
        answers = list(crew.answers(items))
        assert crew.figures() == {"windows": "60", "workers": str(len(crew.ready))}
        assert {facts.threads for facts in crew.ready.values()} == {1}
    assert sorted(answers) == sorted((n, item.upper()) for n, item in enumerate(items))
    assert sorted((tmp_path / "begun").read_text().splitlines()) == sorted(items)
    ready = (tmp_path / "ready").read_text().splitlines()
    assert len(ready) == len(set(ready)) <= 2
    assert sorted(told.lines) == sorted(f"{item} is done" for item in items)
    assert not (tmp_path / ".glomtile/cluster").exists()


def test_items_may_be_added_while_others_are_answered(scheduler: str, tmp_path: Path) -> None:
    answers = []
    with crew_for(scheduler, Errands(tmp_path), Told()) as crew:
        for number, answer in crew.answers(["a", "b"]):
            answers.append((number, answer))
            if number == 0:
                assert list(crew.more(["c", "d"])) == [2, 3]
    assert sorted(answers) == [(0, "A"), (1, "B"), (2, "C"), (3, "D")]


def test_a_poisonous_item_is_given_up_after_three_workers_and_the_rest_is_done(
    tmp_path: Path,
) -> None:
    items = ["kills", "a", "kills once", "b", "c"]
    with crew_of(Cluster(workers=2), Errands(tmp_path), Told()) as crew:
        answers = dict(crew.answers(items))
    assert answers == {0: GivenUp(3), 1: "A", 2: "KILLS ONCE", 3: "B", 4: "C"}
    begun = (tmp_path / "begun").read_text().splitlines()
    assert (begun.count("kills"), begun.count("kills once")) == (3, 2)


def test_no_piece_is_blamed_or_done_again_for_the_death_of_the_worker_that_it_went_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of no time, one death to be given up: answers lost and pieces that waited would show."""
    monkeypatch.setattr(module, "MOST_DEATHS", 1)
    items = ["a", "b", "c", "kills", "d", "kills", "e", "f"]
    with crew_of(Cluster(workers=1), Errands(tmp_path), Told()) as crew:
        answers = dict(crew.answers(items))
    assert answers == {n: GivenUp(1) if item == "kills" else item.upper() for n, item in enumerate(items)}
    assert sorted((tmp_path / "begun").read_text().splitlines()) == sorted(items)


def test_what_the_work_raises_comes_out(scheduler: str, tmp_path: Path) -> None:
    with crew_for(scheduler, Errands(tmp_path), Told()) as crew, pytest.raises(ZeroDivisionError):
        list(crew.answers(["raises"]))


def test_a_worker_that_cannot_get_ready_is_named_with_its_reason(scheduler: str, tmp_path: Path) -> None:
    told = Told()
    with (
        pytest.raises(UsageError, match=r"fit for this run.*expected the runtime"),
        crew_for(scheduler, Errands(tmp_path, "expected the runtime X, got none"), told) as crew,
    ):
        list(crew.answers(["a"]))
    assert len(told.lines) == 1
    assert "is left out: model: expected the runtime X, got none" in told.lines[0]


def test_a_worker_of_another_version_is_sent_nothing(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = module.versions()["glomtile"]
    monkeypatch.setattr(module, "versions", lambda: {"glomtile": "9.9.9"})
    with (
        pytest.raises(UsageError, match=f"expected glomtile 9.9.9, got glomtile {ours}"),
        crew_for(scheduler, Errands(tmp_path), Told()) as crew,
    ):
        list(crew.answers(["a"]))
    assert not (tmp_path / "ready").exists()


def test_a_folder_that_workers_do_not_share_is_refused(scheduler: str, tmp_path: Path) -> None:
    """The client's mark is taken away, which is what a worker with a disk of its own sees."""
    job = Errands(tmp_path)
    with crew_for(scheduler, job, Told()) as crew:
        for mark in job.folder.iterdir():
            mark.unlink()
        with pytest.raises(UsageError, match="folder that client and workers share"):
            list(crew.answers(["a"]))
    assert not (tmp_path / "ready").exists()


def test_a_scheduler_that_nobody_reaches_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REACH_S", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://here", "here"):
        with (
            pytest.raises(UsageError, match="expected a Dask scheduler"),
            crew_of(Cluster(address), Errands(tmp_path)),
        ):
            pass
    assert not (tmp_path / ".glomtile/cluster").exists()


def test_work_ends_when_its_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was killed leaves its worker at work; the next one takes its mark away."""

    class Worker:
        def log_event(self, topic: str, told: dict[str, Any]) -> None: ...

    monkeypatch.setattr(distributed, "get_worker", Worker)
    monkeypatch.setattr(seat, "_TELL_EVERY_S", 0.0)
    mark = tmp_path / "token.run"
    mark.touch()

    def work(item: Any, progress: Progress) -> None:
        progress.start("windows", 9)
        progress.advance(1)
        mark.unlink()
        progress.advance(1)

    monkeypatch.setattr(seat, "_seat", seat._Seat("token", mark, work, "windows"))
    with pytest.raises(seat.WithdrawnError):
        seat.work_on("token", 0, "a", Claim(tmp_path / "first"))
    assert isinstance(seat.work_on("token", 0, "a", Claim(tmp_path / "next")), seat.NoSeat)
    assert isinstance(seat.work_on("other", 0, "a", Claim(tmp_path / "next")), seat.NoSeat)
    assert not (tmp_path / "next").exists()


def test_a_piece_that_was_taken_back_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mark := tmp_path / "token.run").touch()
    (claim := Claim(tmp_path / "claim")).made()
    begun: list[Any] = []
    monkeypatch.setattr(
        seat, "_seat", seat._Seat("token", mark, lambda item, _: begun.append(item), "windows")
    )
    assert isinstance(seat.work_on("token", 0, "a", claim), seat.NoSeat)
    assert not begun


def test_an_error_of_ours_travels_whole() -> None:
    import pickle

    problem = InputError(Path("a.svs"), "expected a slide, got none", "look again")
    back = pickle.loads(pickle.dumps(problem))
    assert (type(back), back.where, back.message, back.hint) == (
        InputError, "a.svs", "expected a slide, got none", "look again",
    )  # fmt: skip
    assert str(back) == str(problem)


def test_dask_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glomtile import cluster
    from glomtile.errors import MissingExtraError

    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="cluster"), crew_of(Cluster(workers=2), Errands(tmp_path)):
        pass


def test_a_cluster_is_told_by_its_workers() -> None:
    assert str(Cluster(workers=1)) == "1 worker on this machine"
    assert str(Cluster(workers=3)) == "3 workers on this machine"
    assert str(Cluster("tcp://host:8786")) == "the workers of tcp://host:8786"
