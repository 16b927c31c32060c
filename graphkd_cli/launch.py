"""Launch the runs of a suite or sweep: teachers first, then groups of students, in processes or by a Hydra launcher."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.ablation import quoted
from graphkd.errors import check, one_line
from graphkd_cli import compose

if TYPE_CHECKING:
    from graphkd.run import RunSpec, StudentSpec

MOST_DEATHS = 3
"""How often processes may die in a row without a finished run in between."""
HELP = """\
  --jobs N                  number of processes (default: cores / threads; one on a GPU)
  --group N                 train at most N runs together
  --alone                   train every run alone
  hydra/launcher=joblib     use a Hydra launcher instead (hydra.launcher.n_jobs=2); also submitit and ray
"""


@dataclass(frozen=True)
class Ways:
    """How runs are distributed over processes.

    Attributes:
        jobs: Number of processes; None for as many as the cores allow.
        largest: Largest number of runs that train together; None for no limit.
        launcher: Overrides that choose a Hydra launcher; none for our own processes.
        config_dir: The user's own configs.
    """

    jobs: int | None = None
    largest: int | None = None
    launcher: Sequence[str] = ()
    config_dir: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: A number is below 1.
        """
        for name, number in (("--jobs", self.jobs), ("--group", self.largest)):
            check(number is None or number >= 1, f"{name} is {number}, but must be at least 1")

    @classmethod
    def chosen(cls, options: argparse.Namespace, launcher: Sequence[str], config_dir: str | None) -> Ways:
        """Return the choice of `parse_ways` options and Hydra overrides."""
        return cls(options.jobs, 1 if options.alone else options.group, launcher, config_dir)

    def workers(self, specs: Sequence[RunSpec]) -> int:
        """Return the number of processes for some runs."""
        if self.jobs is not None:
            return self.jobs
        for word in self.launcher:
            key, _, value = word.partition("=")
            if key.endswith("n_jobs") and value.isdecimal():
                return max(1, int(value))
        return _cores() // max(spec.trainer.threads for spec in specs) or 1


def parse_ways(command: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the options on how runs are distributed; return them and all other words."""
    ours = argparse.ArgumentParser(add_help=False)
    ours.add_argument("--jobs", type=int)
    ours.add_argument("--group", type=int)
    ours.add_argument("--alone", action="store_true")
    return compose.CommandParser(command, parents=[ours]).parse_known_args(list(arguments))


def conclude(names: Sequence[str], failed: Mapping[int, str]) -> int:
    """Print which of the named runs failed; return the exit code."""
    print(f"{len(names) - len(failed)} of {len(names)} runs are finished.")
    for number, error in sorted(failed.items()):
        print(f"failed: {names[number]}: {error}")
    return 1 if failed else 0


def launch(specs: Sequence[StudentSpec], ways: Ways) -> dict[int, str]:
    """Execute runs, teachers first, and show their progress.

    Returns:
        The errors of failed runs, by position.
    """
    from graphkd.run.folder import is_done, launch_folder

    kept = (spec for spec in specs if not spec.config["force"])
    folders = {spec.folder for spec in kept if is_done(spec.folder, spec.identity, spec.seed)}
    first = {spec.folder: at for at, spec in reversed(list(enumerate(specs)))}
    # A run that occurs twice is finished when its second turn comes.
    done = [at for at, spec in enumerate(specs) if spec.folder in folders or first[spec.folder] != at]
    teachers: dict[Path, RunSpec] = {}
    for at, spec in enumerate(specs):
        if at not in done and spec.teacher is not None and spec.teacher.checkpoint is None:
            config = {**spec.teacher.config, "force": spec.config["force"]}
            teachers[spec.teacher.folder] = dataclasses.replace(spec.teacher, config=config)
    print(_plan([spec for at, spec in enumerate(specs) if at not in done], len(done), ways))
    with launch_folder(Path(specs[0].config["results"])) as folder:
        taught = {len(specs) + at: spec for at, spec in enumerate(teachers.values())}
        _do(taught, [], folder, ways, lambda numbers: [[number] for number in numbers], "teacher")
        return _do(dict(enumerate(specs)), done, folder, ways, lambda numbers: groups(specs, numbers, ways), "run")


def groups(specs: Sequence[StudentSpec], numbers: Sequence[int], ways: Ways) -> list[list[int]]:
    """Return some of the runs, by number, in groups that train together."""
    from graphkd.run.group import cut

    chosen = [specs[number] for number in numbers]
    return [[numbers[at] for at in group] for group in cut(chosen, ways.workers(chosen), ways.largest)]


def job(config: Any) -> None:
    """Execute one group, for a Hydra launcher."""
    from graphkd_cli.groups import run_group

    run_group(Path(config.folder), list(config.group), config.wait)


def _plan(left: Sequence[StudentSpec], done: int, ways: Ways) -> str:
    """Describe the work ahead, in one line."""
    there = f", {done} of them already finished" if done else ""
    text = f"{_count(len(left) + done, 'run')}{there}"
    if not left:
        return text
    cut = groups(left, range(len(left)), ways)
    sizes = sorted({len(group) for group in cut})
    size = (
        ""
        if sizes == [1]
        else f" of {' to '.join(sorted({str(sizes[0]), str(sizes[-1])}, key=int))} that train together"
    )
    threads = max(spec.trainer.threads for spec in left)
    workers = min(ways.workers(left), len(cut))
    how = f"by {ways.launcher[0]}" if ways.launcher else f"in {_count(workers, 'process', 'es')}"
    return f"{text}: {_count(len(cut), 'group')}{size}, {how} of {_count(threads, 'thread')}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number > 1 else ''}"


def _do(
    specs: dict[int, RunSpec], done: Sequence[int], folder: Path, ways: Ways,
    cut: Callable[[Sequence[int]], list[list[int]]], what: str,
) -> dict[int, str]:  # fmt: skip
    """Execute runs, those that another suite is working on last; return the errors by run number."""
    from graphkd.run import write_spec
    from graphkd_cli.board import Board
    from graphkd_cli.groups import BUSY, read_answer, run_group
    from graphkd_cli.show import console

    if not specs:
        return {}
    for number, spec in specs.items():
        write_spec(spec, folder / f"{number}.yaml")
    with Board(console(), folder, list(specs), what):
        _rounds([number for number in specs if number not in done], specs, folder, ways, cut, wait=False)
        for number in done:
            run_group(folder, [number], wait=True)  # finds it finished
        answers = {number: read_answer(folder, number) or {} for number in specs}
        busy = [number for number, answer in answers.items() if answer.get("error") == BUSY]
        for number in busy:
            (folder / f"{number}.answer").unlink()
        _rounds(busy, specs, folder, ways, lambda numbers: [[number] for number in numbers], wait=True)
    answers = {number: read_answer(folder, number) or {} for number in specs}
    return {number: answer["error"] for number, answer in answers.items() if answer.get("error") is not None}


def _rounds(
    numbers: Sequence[int], specs: dict[int, RunSpec], folder: Path, ways: Ways,
    cut: Callable[[Sequence[int]], list[list[int]]], wait: bool,
) -> None:  # fmt: skip
    """Execute runs; start those of a dead process again, so that they resume."""
    from graphkd_cli.groups import read_answer, write_groups

    left, deaths = list(numbers), 0
    while left:
        together = cut(left)
        write_groups(together, folder)
        workers = min(ways.workers([specs[number] for number in left]), len(together))
        reason = _spread(together, folder, ways, workers, wait)
        missing = [number for number in left if read_answer(folder, number) is None]
        deaths = deaths + 1 if len(missing) == len(left) else 1
        left = missing
        if left and deaths == MOST_DEATHS:
            for number in left:
                error = f"its process died: {reason}"
                line = f"{specs[number].variant} seed {specs[number].seed}: failed: {error}"
                answer = {"error": error, "line": line, "trained": False}
                (folder / f"{number}.answer").write_text(json.dumps(answer))
            return
        if left:
            print(f"a process died ({reason}); continuing with {len(left)} runs", file=sys.stderr)


def _spread(together: Sequence[Sequence[int]], folder: Path, ways: Ways, workers: int, wait: bool) -> str:
    """Execute groups in this process, in several or by a Hydra launcher; return how a process died, if one did."""
    from graphkd.run import processes
    from graphkd_cli import groups as module

    if ways.launcher:
        words = [*ways.launcher, f"folder={quoted(str(folder))}", f"wait={str(wait).lower()}"]
        try:
            compose.launch("launch", words, [[f"group={list(group)}"] for group in together], job, ways.config_dir)
        except BrokenExecutor as error:
            return one_line(error)
        return ""
    if workers == 1:
        module.run_groups(folder, wait)
        return ""
    words = [str(folder), *([] if wait else [module.LEAVE_BUSY])]
    codes = processes.share_work(module.MODULE, words, workers, folder)
    for file in sorted(folder.glob("process-*.err")):
        sys.stderr.write(file.read_text(errors="replace"))
    return ", ".join(sorted({f"exit code {code}" for code in codes if code}))


def _cores() -> int:
    """Return the number of cores to use; 1 on a GPU, which a group shares by streams."""
    import torch

    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
