"""The command's front door: ``glomtile …`` and ``python -m glomtile …`` start here."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command with the arguments of this process.

    Returns
    -------
    int
        The exit code: 0 done, 1 some inputs failed, 2 usage or config, 130 stopped by the user.
    """
    from glomtile.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
