"""How a command line names the machines that shall work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glomtile.cluster import Cluster

Scheduler = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Let the workers of this Dask scheduler do it, tcp://host:8786."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Let N processes of this machine do it side by side.")
]


def cluster_of(scheduler: str | None, workers: int | None) -> Cluster | None:
    """The cluster that is meant; none where neither is given.

    Raises
    ------
    UsageError
        Both are given.
    """
    if scheduler is None and workers is None:
        return None
    from glomtile.cluster import Cluster
    from glomtile.errors import UsageError

    if scheduler is not None and workers is not None:
        raise UsageError("--workers", "expected a scheduler or a number of workers, got both")
    return Cluster(scheduler, workers)
