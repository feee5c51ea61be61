"""The command's front door: ``glomtile …`` and ``python -m glomtile …`` start here."""

from __future__ import annotations

import signal
import sys

_STOPPED = 130


def main() -> int:
    """Run the command with the arguments of this process.

    Returns
    -------
    int
        The exit code: 0 done, 1 some inputs failed, 2 usage or config, 130 stopped by the user.
    """
    try:
        from glomtile.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while it was being loaded, or a second one
        sys.stderr.write("stopped\n")
        code = _STOPPED
    if code == _STOPPED:
        # What threads have under way ends before the interpreter does, which waits for them unless it is
        # interrupted again. Then a thread inside OpenCV would be ended there, and take all down with
        # "terminate called without an active exception".
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
