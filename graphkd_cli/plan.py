"""`graphkd plan`: memory and work of HKD at sizes beyond this machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphkd.binding import bind, options_of
from graphkd.errors import UserError, check
from graphkd_cli.arguments import CommandParser

if TYPE_CHECKING:
    from graphkd.bench.plan import Plan

HELP = """\
usage: graphkd plan [SIZE=VALUE[,VALUE...] ...] [--gflops RATE]

Computes what the HKD objective needs in each process; every combination of values is a row.

  samples=50000        N, training samples
  batch=64             B, over all processes
  negatives=16384      K
  dim=128              D, width of embeddings and banks
  dtype=float32        how banks are stored: float32, bfloat16 or float16
  length=null          rows of a queue, instead of a row for every sample (bank.kind=queue)
  world=1              processes that share the rows of full banks (bank.sharded=true)

  --gflops RATE        also print the time of a step's contrast, at the rate of `graphkd bench scale` on your machine

Sizes may be written as 1e9 or 1_000_000_000. graphkd plan samples=1e6,1e9 dtype=bfloat16 world=1,64
"""
GIB, MIB = 2**30, 2**20


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("plan", has_configs=False)
    parser.add_argument("sizes", nargs="*")
    parser.add_argument("--gflops", type=float)
    options = parser.parse_intermixed_args(list(arguments))
    check(options.gflops is None or options.gflops > 0, f"plan: --gflops is {options.gflops}, but must be positive")

    from graphkd.bench.plan import Plan
    from graphkd.report.markup import Block, markdown_block
    from graphkd_cli.printing import console, print_block

    known = options_of(Plan)
    plans = [Plan(**bind(sizes, known, "plan").all) for sizes in _combinations(options.sizes)]
    rows = [_row(plan, options.gflops) for plan in plans]
    block = Block.of(rows[0], [row.values() for row in rows])
    screen = console()
    if screen.is_terminal:
        print_block(screen, block)
    else:
        print(markdown_block(block))
    return 0


def _row(plan: Plan, gflops: float | None) -> dict[str, str]:
    """Return the cells of a plan by heading."""
    from graphkd.bench.results import three_digits

    row = {
        "N": f"{plan.samples:,}",
        "B": f"{plan.batch:,}",
        "K": f"{plan.negatives:,}",
        "banks": plan.dtype if plan.length is None else f"queue of {plan.length:,}, {plan.dtype}",
        "processes": f"{plan.world:,}",
        "held by each (GiB)": three_digits(plan.held / GIB),
        "in a checkpoint (GiB)": three_digits(plan.saved / GIB),
        "exchanged by each in a step (MiB)": three_digits(plan.exchanged / MIB),
        "GFLOP of each in a step": three_digits(plan.flops / 1e9),
    }
    return row if gflops is None else {**row, f"ms at {gflops:g} GFLOP/s": three_digits(plan.flops / 1e6 / gflops)}


def _combinations(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return every combination of the given values, the first size varying slowest.

    Raises:
        UserError: A word is not SIZE=VALUE.
    """
    choices: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise UserError(f"plan: '{word}' is not SIZE=VALUE, such as samples=1e9 (see graphkd plan --help)")
        choices[name] = [_value(value) for value in values.split(",")]
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _value(text: str) -> int | str | None:
    """Return a whole number in any notation, null, or the text itself."""
    if text == "null":
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else text
