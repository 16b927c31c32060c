"""One process of a run on several devices: python -m graphkd_cli.worker CONFIG [--quiet].

graphkd starts them itself (`trainer.devices=2`); torchrun and Slurm start them with the config that
`graphkd run ... --cfg job` prints.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from graphkd_cli.main import guarded

MODULE = "graphkd_cli.worker"
OPTIONS = ("--quiet", "--launched")


def main(words: Sequence[str]) -> int:
    """Execute this process's part of the run; return the exit code."""
    from graphkd.engine.callback import Callback
    from graphkd.engine.environment import is_main_process
    from graphkd.errors import check
    from graphkd.run import processes, read_spec, run
    from graphkd_cli.printing import console
    from graphkd_cli.progress import ProgressCallback

    if processes.LAUNCHED in words:
        processes.follow_parent()
    paths = [word for word in words if word not in OPTIONS]
    check(len(paths) == 1, "the worker takes one resolved config: python -m graphkd_cli.worker CONFIG")
    spec = read_spec(Path(paths[0]))
    shows = is_main_process() and "--quiet" not in words
    shown = ProgressCallback(console()) if shows else contextlib.nullcontext(Callback())
    with shown as callback:
        run(spec, callback, worker=MODULE)
    processes.leave()
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(guarded(lambda: main(arguments), debug="--launched" in arguments))
