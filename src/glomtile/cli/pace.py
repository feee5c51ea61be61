"""How fast a stage goes, by its last half minute, and how long it has still to go."""

from __future__ import annotations

from collections import deque

SPAN_S = 30.0
_SAMPLE_S = 0.25
_LEAST_S = 1.0


class Pace:
    """Steps per second of one stage.

    Parameters
    ----------
    now : float
        When it began, in seconds of any clock.
    """

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])
        self._latest = now, 0

    def add(self, now: float, done: int) -> None:
        """Note how many steps are done; more than one at the first call were done by an earlier run."""
        if self._latest[1] == 0 and done > 1:
            self._samples = deque([(now, done)])
        self._latest = now, done
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append(self._latest)
            while len(self._samples) > 2 and now - self._samples[1][0] >= SPAN_S:
                self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """Steps per second; ``None`` until there is a second to judge by."""
        (began, before), (now, done) = self._samples[0], self._latest
        return (done - before) / (now - began) if now - began >= _LEAST_S and done > before else None

    def left(self, total: int | None) -> float | None:
        """Seconds until the last step; ``None`` where nobody can tell, or it is done."""
        rate, done = self.rate, self._latest[1]
        return (total - done) / rate if rate and total and done < total else None


def rate_words(rate: float | None) -> str:
    """A rate as it stands in a status line; empty where there is none.

    Examples
    --------
    >>> rate_words(41.26), rate_words(1.3), rate_words(0.08), rate_words(None)
    ('41/s', '1.3/s', '12 s each', '')
    """
    if rate is None:
        return ""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 0.5 else f"{1 / rate:,.0f} s each"
