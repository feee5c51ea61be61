"""Command line entry: errors, exit codes and global options."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence

from glomtile.cli.flags import FLAGS, parse_global_options
from glomtile.errors import ArgumentError, GlomtileError, UsageError

EXIT_FAILED = 1
EXIT_STOPPED = 130

_OPTIONS = {"tile_px": "tile", "window_px": "window", "memory_mb": "memory", "read_threads": "threads"}
"""Arguments whose options have other names."""

# Keras colours some of its messages for a terminal.
_COLOURING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def run(argv: Sequence[str]) -> int:
    """Run one command line.

    Parameters
    ----------
    argv : sequence of str
        The arguments behind the command's name.

    Returns
    -------
    int
        The exit code: 0 done, 1 some inputs failed, 2 usage or config, 130 stopped by the user.
    """
    arguments, flags = parse_global_options(argv)
    FLAGS.set(flags)
    if flags.quiet and flags.verbose:
        _say("error: --verbose: expected one of --quiet and --verbose, got both")
        return UsageError.exit_code
    # TensorFlow greets on stderr while it is imported, between our progress lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if flags.debug else "2")
    try:
        return _run_app(arguments)
    except GlomtileError as error:
        if flags.debug:
            traceback.print_exc()
        _say(f"error: {_told(error)}")
        if flags.json:
            _print_failure(arguments, error.exit_code, error.where, error.message, error.hint)
        return error.exit_code
    except Exception as error:
        if flags.debug:
            traceback.print_exc()
        else:
            _say(_unexpected(error, arguments))
        if flags.json:
            _print_failure(arguments, EXIT_FAILED, type(error).__name__, _words(error), None)
        return EXIT_FAILED


def _run_app(arguments: Sequence[str]) -> int:
    """Parse and run; Typer ends every way that is no error of ours with a SystemExit."""
    from glomtile.cli.commands import app

    try:
        app(args=list(arguments), prog_name="glomtile")
    except (SystemExit, KeyboardInterrupt) as end:
        code = EXIT_STOPPED if isinstance(end, KeyboardInterrupt) else end.code
        if code == EXIT_STOPPED:
            _say("stopped")
        return code if isinstance(code, int) else int(code is not None)
    except Exception as problem:
        if not _interrupted(problem):
            raise
        _say("stopped")
        return EXIT_STOPPED
    return 0


def _interrupted(problem: BaseException | None) -> bool:
    """Whether Ctrl-C stands behind an error: compiled modules stopped amid their import raise their own."""
    met: set[int] = set()
    while problem is not None and id(problem) not in met:
        if isinstance(problem, KeyboardInterrupt):
            return True
        met.add(id(problem))
        problem = problem.__cause__ or problem.__context__
    return False


def _told(error: GlomtileError) -> str:
    """The error's line; a function's argument is called by the option that it came from."""
    if not isinstance(error, ArgumentError):
        return str(error)
    option = _OPTIONS.get(error.where, error.where.replace("_", "-"))
    return f"--{option}{str(error).removeprefix(error.where)}"


def _print_failure(arguments: Sequence[str], code: int, where: str, message: str, hint: str | None) -> None:
    """The object of a command that was asked for JSON and could do nothing."""
    from glomtile.cli.outcome import print_object

    command = next((word for word in arguments if not word.startswith("-")), "")
    error = {"where": where, "message": message, "hint": hint}
    print_object(command, {"exit_code": code, "error": error})


def _words(error: Exception) -> str:
    """What an exception says, in one short line."""
    words = " ".join(_COLOURING.sub("", str(error)).split()) or "no message"
    return words if len(words) <= 300 else words[:300] + " …"


def _unexpected(error: Exception, arguments: Sequence[str]) -> str:
    words = _words(error)
    again = " ".join(["glomtile --debug", *arguments])
    return (
        f"unexpected error: {type(error).__name__}: {words}\n"
        f"  Nobody has foreseen this. Please report it with what these two print:\n"
        f"  glomtile info\n  {again}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
