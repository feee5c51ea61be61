"""Native code greets on stderr while a backend is imported: that is dropped, the rest is passed on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What TensorFlow tells before anything could ask it to be quiet; real errors of an import are kept.
_GREETING = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|.*Unable to register cu")


@contextmanager
def greeting_held_back() -> Iterator[None]:
    """Keep what native code writes on stderr inside the block, and pass on what is no greeting."""
    import tempfile  # with `random` and OpenSSL behind it: not for --help

    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _GREETING.match(line):
                    sys.stderr.write(f"{line}\n")
