"""Run the commands of a page and record their output below them.

    PYTHONPATH=docs python -m docsite.record docs/tutorial.md WORK

Every ``sh`` block with a recorded output is run in the folder WORK, in order;
``glomtile`` is the one of this Python. The output, progress and results,
replaces the block below ``<!-- output -->``. Blocks without recorded output are
run too unless they are marked as not run, since later ones depend on them.
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
"""Progress lines of a log, which depend on the clock."""


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
    """Remove the working folder and progress lines from output, and cut long lines."""
    text = text.replace(f"{work}/", "").replace(str(work), ".")
    lines = [line.rstrip() for line in text.splitlines() if not STATUS.match(line)]
    return "\n".join(line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines)


def record(page: Path, work: Path, first_line: int = 1) -> None:
    work.mkdir(parents=True, exist_ok=True)
    lines = page.read_text("utf-8").splitlines()
    recorded: list[tuple[tuple[int, int], str]] = []
    for block in read_blocks(page):
        if block.line >= first_line and block.language == "sh" and (block.output or not block.not_run):
            print(f"{block}: {block.text.splitlines()[0]}", flush=True)
            printed = run(block, work)
            if block.output:
                recorded.append((block.output, printed))
    for (start, stop), printed in reversed(recorded):
        lines[start:stop] = printed.splitlines()
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--from", dest="first_line", type=int, default=1, help="skip blocks above this line")
    arguments = parser.parse_args()
    record(arguments.page.resolve(), arguments.work.resolve(), arguments.first_line)
