"""`graphkd teacher`: train a teacher on its own."""

from __future__ import annotations

from collections.abc import Sequence

from graphkd_cli import compose, worker
from graphkd_cli.arguments import CommandParser

HELP = """\
usage: graphkd teacher [OVERRIDES] [--config-dir DIR]

Trains the teacher that `graphkd run` with the same overrides would train first.

  teacher=NAME teacher.seed=N             the network and its seed
  teacher_trainer.epochs=N                its training
  data=NAME force=true
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("teacher")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(list(arguments))
    composed = compose.compose(options.overrides, options.config_dir)

    from graphkd.run import parse_teacher, run
    from graphkd_cli.printing import console, print_result, print_reused
    from graphkd_cli.progress import ProgressCallback

    spec = parse_teacher(composed.config)
    screen = console()
    with ProgressCallback(screen) as callback:
        result = run(spec, callback, worker=worker.MODULE)
    print_reused(screen, result, "This teacher is already trained (force=true trains it again).")
    print_result(screen, result)
    return 0
