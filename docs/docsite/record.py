"""Run a page's commands for real and put what they print under them.

    PYTHONPATH=docs python -m docsite.record docs/tutorial.md WORK

Every block of ``sh`` with a recorded output is run in the folder WORK, in order, the lines of a block one
after the other; ``glomtile`` is the one of this Python. What was printed, progress and results,
replaces the block below ``<!-- output -->``. Blocks without one that no test skips are
run too, since later ones build on them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from docsite.blocks import Block, read_blocks

SHELL = 'glomtile() { "$PYTHON" -m glomtile "$@"; }\nset -e\n'
WIDEST = 130
STATUS = re.compile(r"[^:]+: (\d+ of \d+( in |, | ·|$)|\d+ done( in |$)|[\d.:]+ (s|min)$)")
"""A log's lines of how far the work is, written by the clock and so never twice the same."""


def run(block: Block, work: Path) -> str:
    environment = os.environ | {"PYTHON": sys.executable, "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-c", SHELL + block.text],
        cwd=work, env=environment, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{block}: exit code {done.returncode}\n{done.stdout}")
    return tidy(done.stdout, work)


def tidy(text: str, work: Path) -> str:
    """Without the folder it ran in and how far it was at which second; long lines cut."""
    text = text.replace(f"{work}/", "").replace(str(work), ".")
    lines = [line.rstrip() for line in text.splitlines() if not STATUS.match(line)]
    return "\n".join(line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines)


def record(page: Path, work: Path, first_line: int = 1) -> None:
    work.mkdir(parents=True, exist_ok=True)
    lines = page.read_text("utf-8").splitlines()
    told: list[tuple[tuple[int, int], str]] = []
    for block in read_blocks(page):
        if block.line >= first_line and block.language == "sh" and (block.output or not block.not_run):
            print(f"{block}: {block.text.splitlines()[0]}", flush=True)
            printed = run(block, work)
            if block.output:
                told.append((block.output, printed))
    for (start, stop), printed in reversed(told):
        lines[start:stop] = printed.splitlines()
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--from", dest="first_line", type=int, default=1, help="leave out what stands above this line"
    )
    told = parser.parse_args()
    record(told.page.resolve(), told.work.resolve(), told.first_line)
