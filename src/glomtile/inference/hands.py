"""Worker state."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from glomtile.inference.claims import Claim
from glomtile.inference.seat import Facts

AHEAD_S = 5.0
"""Workers whose pieces take less get the next one ahead; behind one that takes more, none waits."""


@dataclass(frozen=True)
class Handed:
    """An item in a worker's hands: its number, the task that Dask delivers, and whose it is."""

    item: int
    task: Any
    claim: Claim


@dataclass
class Worker:
    """A worker: asked who it is, preparing, ready, or unfit for a reason.

    Attributes
    ----------
    name : str
    stage : {"asked", "preparing", "ready", "unfit"}
    facts : Facts or None
        Once it is ready.
    task : object
        By which it is asked or gets ready.
    hand : list of Handed
        What it is at, and what waits for that to end; in the order given, which need not be the order done.
    since : float
        When it came to be at what it is at.
    quick : bool
        It needed less than `AHEAD_S` for the last piece.
    reason : str
    """

    name: str
    stage: str = "asked"
    facts: Facts | None = None
    task: Any = None
    hand: list[Handed] = field(default_factory=list)
    since: float = 0.0
    quick: bool = False
    reason: str = ""

    @property
    def idle(self) -> bool:
        return self.stage == "ready" and not self.hand

    def long_at(self, now: float) -> bool:
        """Whether what it is at has turned out to be long."""
        return now - self.since > AHEAD_S

    def takes(self, most: int) -> bool:
        """Whether another piece may be put into its hands, `most` of them at most."""
        return self.stage == "ready" and len(self.hand) < (most if self.quick else 1)

    def take(self, handed: Handed, now: float) -> None:
        if not self.hand:
            self.since = now
        self.hand.append(handed)

    def put_down(self, key: str, now: float) -> Handed | None:
        """The item whose task has ended, out of its hands: it is at the next one now."""
        handed = next((one for one in self.hand if one.task.key == key), None)
        if handed is not None:
            self.hand.remove(handed)
            self.quick = not self.long_at(now)
            self.since = now
        return handed

    def give_back(self) -> Handed | None:
        """An item that it has not begun, out of its hands; it gets none ahead before it has ended one."""
        self.quick = False
        for handed in reversed(self.hand):
            if _free(handed):
                self.hand.remove(handed)
                return handed
        return None

    def was_at(self) -> Handed | None:
        """What it was at when it was lost: the last that it had begun of what is in its hands.

        What it had not begun it never will, should it live on somewhere.
        """
        begun = [handed for handed in self.hand if not _free(handed)]
        return max(begun, key=lambda handed: handed.claim.order(), default=None)


def _free(handed: Handed) -> bool:
    """Whether a piece had not been begun; it cannot be any more. Not where nothing can be written."""
    with suppress(OSError):
        return handed.claim.made()
    return False
