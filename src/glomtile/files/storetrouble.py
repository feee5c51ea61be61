"""What is meant by what a store raises: nothing there, nobody reached, a refusal, or anything else."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

_UNREACHED = {
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL,
    getattr(errno, "EHOSTDOWN", errno.EHOSTUNREACH),
}  # fmt: skip
_CONNECTORS = ("ClientConnectorError", "EndpointConnectionError")
"""Of aiohttp and botocore, which may keep the system's number to themselves."""

_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)

_ANYTHING = "is the store reached from here, and are its credentials set?"
_ADDRESS = "is the address right, and is the store reached from here?"


def nothing_there(problem: Exception) -> bool:
    """Whether a store was asked and has no such file, folder or bucket.

    fsspec says of whatever goes wrong on the web that a file is missing; what it was stands behind that.
    """
    if not isinstance(problem, FileNotFoundError):
        return _status(problem) in _GONE
    return not isinstance(problem.__cause__, Exception) or _status(problem.__cause__) in _GONE


def trouble(problem: Exception) -> tuple[str, str]:
    """What a store raised.

    Returns
    -------
    got : str
        What came instead of what was expected: ``": …"``, or ``" no connection: …"``.
    hint : str
        What to try.
    """
    if nothing_there(problem):
        return f": {said(problem)}", "is there such a bucket or folder?"
    chain = list(_chain(problem))
    if any(isinstance(one, TimeoutError) for one in chain):
        return " no answer in time", _ADDRESS
    unreached = next((one for one in reversed(chain) if _is_unreached(one)), None)
    asked = next(one for one in chain if not isinstance(one, FileNotFoundError))
    if unreached is not None:
        return f" no connection: {_with_reason(asked, unreached)}", _ADDRESS
    status = next(filter(None, map(_status, chain)), None)
    if status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f": {_status_words(status)}", "the server itself is in trouble; try again later"
    if status in _REFUSED or any(isinstance(one, PermissionError) for one in chain):
        words = _status_words(status) if _is_web(asked) and status else said(asked)
        return f": {words}", "the store refuses: are its credentials set, and do they allow this?"
    return f": {_status_words(status) if _is_web(asked) and status else said(asked)}", _ANYTHING


def said(problem: BaseException) -> str:
    """What a store raised, on one line; each has exceptions of its own."""
    return " ".join(str(problem).split()) or type(problem).__name__


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised for, the last one first."""
    met: set[int] = set()
    now: BaseException | None = problem
    while now is not None and id(now) not in met:
        met.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)


def _is_unreached(problem: BaseException) -> bool:
    if isinstance(problem, socket.gaierror | ssl.SSLError) or type(problem).__name__ in _CONNECTORS:
        return True
    return isinstance(problem, OSError) and problem.errno in _UNREACHED


def _with_reason(asked: BaseException, unreached: BaseException) -> str:
    """Which place was asked, as its client tells, and why there is no way to it, as the system does."""
    number = getattr(unreached, "errno", None)
    reason = os.strerror(number) if number in _UNREACHED else getattr(unreached, "strerror", None)
    place = said(asked)
    return place if not reason or reason in place else f"{reason} ({place})"


def _status(problem: BaseException) -> int | None:
    """The status that a server answered with, as aiohttp and botocore tell it."""
    answer = getattr(problem, "response", None)
    if isinstance(answer, dict):
        told = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        told = getattr(problem, "status", None)
    return told if isinstance(told, int) else None


def _is_web(problem: BaseException) -> bool:
    """Whether a server said nothing but its status."""
    return isinstance(getattr(problem, "status", None), int)


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}"
