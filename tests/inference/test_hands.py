"""What is in a worker's hands: whoever claims it first has it, and the last begun is what it was at."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.inference.claims import Claim
from glomtile.inference.hands import AHEAD_S, Handed, Worker


class Task:
    def __init__(self, key: str) -> None:
        self.key = key


def worker_with(folder: Path, items: int) -> Worker:
    worker = Worker("w", stage="ready", quick=True)
    for number in range(items):
        worker.take(Handed(number, Task(f"{number}"), Claim(folder / f"{number}.claim")), 0.0)
    return worker


def test_a_claim_is_made_once(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "one")
    assert claim.made(7)
    assert not claim.made()
    assert claim.order() == 7
    claim.clear()
    claim.clear()
    assert not claim.path.exists()


def test_a_claim_without_its_number_is_the_last_begun(tmp_path: Path) -> None:
    """Its worker died, or the disk was full, between the file and what stands in it."""
    (tmp_path / "one").touch()
    assert Claim(tmp_path / "one").order() == float("inf")


def test_a_claim_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Claim(tmp_path / "missing" / "one").made()


@given(begun=st.permutations(range(4)), count=st.integers(0, 4))
def test_a_worker_was_at_what_it_began_last_and_begins_no_more(
    begun: list[int], count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the order, which Dask does not promise."""
    worker = worker_with(tmp_path_factory.mktemp("hand"), 4)
    for order, item in enumerate(begun[:count], 1):
        assert worker.hand[item].claim.made(order)
    at = worker.was_at()
    assert (None if at is None else at.item) == (begun[count - 1] if count else None)
    assert not any(handed.claim.made() for handed in worker.hand)


def test_what_waits_is_given_back_and_what_was_begun_is_not(tmp_path: Path) -> None:
    worker = worker_with(tmp_path, 2)
    assert worker.hand[0].claim.made(1)
    back = worker.give_back()
    assert back is not None
    assert back.item == 1
    assert not back.claim.made(2)  # the worker, should its turn come yet
    assert worker.give_back() is None
    assert [handed.item for handed in worker.hand] == [0]


def test_nothing_is_given_back_where_nothing_can_be_claimed(tmp_path: Path) -> None:
    assert worker_with(tmp_path / "missing", 2).give_back() is None


def test_only_who_was_quick_takes_another_ahead(tmp_path: Path) -> None:
    worker = Worker("w", stage="ready")
    assert worker.takes(2)
    worker.take(Handed(0, Task("0"), Claim(tmp_path / "0")), 10.0)
    assert not worker.takes(2)
    assert worker.put_down("0", 10.0 + AHEAD_S / 2) is not None
    worker.take(Handed(1, Task("1"), Claim(tmp_path / "1")), 20.0)
    assert worker.takes(2)
    assert not worker.takes(1)
    assert worker.put_down("1", 20.0 + 2 * AHEAD_S) is not None
    worker.take(Handed(2, Task("2"), Claim(tmp_path / "2")), 40.0)
    assert not worker.takes(2)
    assert worker.put_down("another", 41.0) is None
