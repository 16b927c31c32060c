"""`graphkd bench`: time and memory on this machine, beside the published arrangement."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphkd.errors import check
from graphkd_cli.arguments import CommandParser

if TYPE_CHECKING:
    from graphkd.bench import Settings

HELP = """\
usage: graphkd bench [PART ...] [--quick] [--device auto|cpu|cuda] [--threads N] [--out DIR]

Times graphkd and the published arrangement of the same computation in turn, measures how much each raises peak
memory, and prints a table.

  loss        the whole HKD loss: forward, backward, update of the banks
  contrast    its contrast alone, by sampler
  sampling    drawing the negatives of a step
  data        batches of augmented images, and the negatives with them
  step        a whole training step, resnet32x4 -> resnet8x4, with its data, and the share of each phase
  suite       a step of every method of Table 1: under one teacher's forward pass, and each by itself
  graph       the kNN graph, and each encoder by engine
  growth      the contrast with more samples, more negatives and a larger batch
  scale       memory and time of the whole HKD objective on larger data, by the type of its banks

  --quick         within a minute: fewer rounds, without slow cases (unless their part is named)
  --device NAME   auto uses CUDA if available (default)
  --threads N     threads on the CPU (default: 2, or 1 on a single core)
  --out DIR       write bench.csv, bench.json and bench.md there as well
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("bench", has_configs=False)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out")
    options = parser.parse_intermixed_args(list(arguments))

    from graphkd.bench import FULL, QUICK, Results, Row, hardware, measure, select_cases
    from graphkd.bench.results import HEADER, LEGEND
    from graphkd.report.markup import Block
    from graphkd_cli.printing import console, print_block, print_line, print_text

    settings = _settings(options)
    folder = None if options.out is None else Path(options.out)
    check(folder is None or folder.is_dir() or not folder.exists(), f"bench: --out {folder} is not a folder")
    cases = select_cases(settings, options.parts, options.quick)
    found = hardware(settings)
    screen = console()
    rows: list[Row] = []
    for number, case in enumerate(cases, start=1):
        with screen.status(f"measuring {number} of {len(cases)}: {case.part}"):
            rows += measure(case, settings, QUICK if options.quick else FULL)
    results = Results(rows, settings, shlex.join(["graphkd", "bench", *arguments]), found)
    print_block(screen, Block.of(HEADER, results.cells()), texts=[1], elsewhere="--out DIR")
    for line in (results.caption, LEGEND, *results.notes):
        print_text(screen, line)
    for path in () if folder is None else results.write(folder):
        print_line(screen, f"written: {path}")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    import torch

    from graphkd.bench import Settings
    from graphkd.machine import cores

    cuda = torch.cuda.is_available()
    check(cuda or options.device != "cuda", "bench: --device is cuda, but torch sees no CUDA device here")
    threads = min(2, cores()) if options.threads is None else options.threads
    check(threads >= 1, f"bench: --threads is {threads}, but must be at least 1")
    return Settings(device="cuda" if cuda and options.device != "cpu" else "cpu", threads=threads)
