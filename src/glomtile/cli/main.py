"""Command line entry: errors, exit codes and logging."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

from glomtile.cli.console import FLAGS, parse_global_options, print_object
from glomtile.errors import ArgumentError, GlomtileError, UsageError
from glomtile.formatting import printable

EXIT_FAILED = 1
EXIT_STOPPED = 130

_OPTIONS = {"tile_px": "tile", "window_px": "window", "memory_mb": "memory", "read_threads": "threads"}
"""Arguments whose options have other names."""

# Keras colours some of its messages for a terminal.
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def run(argv: Sequence[str]) -> int:
    """Run one command line.

    Parameters
    ----------
    argv : sequence of str
        The arguments after the command's name.

    Returns
    -------
    int
        The exit code: 0 done, 1 some inputs failed, 2 usage or config, 130 stopped by the user.
    """
    arguments, flags = parse_global_options(argv)
    FLAGS.set(flags)
    if flags.quiet and flags.verbose:
        _print_error("error: --verbose: expected one of --quiet and --verbose, got both")
        return UsageError.exit_code
    logger = logging.getLogger("glomtile")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.DEBUG if flags.debug else logging.WARNING)
    # TensorFlow prints to stderr while it is imported, between progress lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if flags.debug else "2")
    try:
        from glomtile.cli.commands import app

        app(args=arguments, prog_name="glomtile")
    except SystemExit as end:  # Typer raises it for everything but our own errors
        if end.code == EXIT_STOPPED:
            _print_error("stopped")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error):
            _print_error("stopped")
            return EXIT_STOPPED
        if flags.debug:
            traceback.print_exc()
        if isinstance(error, GlomtileError):
            _print_error(f"error: {_with_option(error)}")
            code, facts = error.exit_code, (error.where, error.message, error.hint)
        else:
            words = " ".join(_COLOURS.sub("", str(error)).split()) or "no message"
            words = words if len(words) <= 300 else words[:300] + " …"
            code, facts = EXIT_FAILED, (type(error).__name__, words, None)
            if not flags.debug:
                _print_error(
                    f"unexpected error: {type(error).__name__}: {words}\n"
                    "  This is a bug. Please report it with the output of these two commands:\n"
                    f"  glomtile info\n  {' '.join(['glomtile --debug', *arguments])}"
                )
        if flags.json:
            command = next((word for word in arguments if not word.startswith("-")), "")
            failure = dict(zip(("where", "message", "hint"), facts, strict=True))
            print_object(command, {"exit_code": code, "error": failure})
        return code
    return 0


def _is_interrupt(problem: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error: compiled modules stopped during import raise their own."""
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        if isinstance(problem, KeyboardInterrupt):
            return True
        seen.add(id(problem))
        problem = problem.__cause__ or problem.__context__
    return False


def _with_option(error: GlomtileError) -> str:
    """Return the error's text with the option in place of the function's argument."""
    if not isinstance(error, ArgumentError):
        return str(error)
    option = _OPTIONS.get(error.where, error.where.replace("_", "-"))
    return f"--{option}{str(error).removeprefix(error.where)}"


def _print_error(text: str) -> None:
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
