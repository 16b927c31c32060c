"""One process of a run on several devices: python -m graphkd_cli.worker CONFIG [--teacher] [--quiet].

graphkd starts these itself (`trainer.devices=2`); torchrun and Slurm start them with the config that
`graphkd run ... --cfg job` prints.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from graphkd_cli.main import guarded

OPTIONS = ("--teacher", "--quiet", "--launched")


def main(words: Sequence[str]) -> int:
    """Does this process's part of the run; returns the exit code."""
    from graphkd import launch
    from graphkd.assemble import plan, plan_teacher
    from graphkd.engine.callback import Callback
    from graphkd.errors import check
    from graphkd.run import run, run_teacher
    from graphkd.run_folder import read_config
    from graphkd_cli.progress import ProgressCallback
    from graphkd_cli.show import console

    if launch.LAUNCHED in words:
        launch.follow_parent()
    paths = [word for word in words if word not in OPTIONS]
    check(len(paths) == 1, "the worker takes one resolved config: python -m graphkd_cli.worker CONFIG")
    config = read_config(Path(paths[0]))
    shows = launch.is_main_process() and "--quiet" not in words
    shown = ProgressCallback(console()) if shows else contextlib.nullcontext(Callback())
    with shown as callback:
        if "--teacher" in words:
            run_teacher(config, plan_teacher(config), callback)
        else:
            run(plan(config), callback)
    launch.leave()
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(guarded(lambda: main(arguments), debug="--launched" in arguments))
