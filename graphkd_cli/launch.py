"""Launch the runs of a suite or sweep: teachers first, then groups of students, in processes or by a Hydra launcher."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkd.ablation import quoted
from graphkd.errors import check, counted, one_line
from graphkd.machine import cores
from graphkd_cli import compose
from graphkd_cli.groups import (
    BUSY,
    LEAVE_BUSY,
    MODULE,
    read_answer,
    run_group,
    run_groups,
    write_answer,
    write_groups,
)

if TYPE_CHECKING:
    from graphkd.run import RunSpec, StudentSpec

Cut = Callable[[Sequence[int]], list[list[int]]]
"""Cuts run numbers into groups."""
LOCAL = "hydra/launcher=joblib"
"""Chooses the launcher whose processes share this machine."""
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
        """Return the choice of `ways_parser` options and Hydra overrides."""
        return cls(options.jobs, 1 if options.alone else options.group, launcher, config_dir)

    def workers(self, specs: Sequence[RunSpec]) -> int:
        """Return the number of processes for some runs."""
        if self.jobs is not None:
            return self.jobs
        for word in self.launcher:
            key, _, value = word.partition("=")
            if key.endswith("n_jobs") and value.isdecimal():
                return max(1, int(value))
        if self.launcher and LOCAL not in self.launcher:
            return 1  # other machines: a job for each group, which nothing here cuts further
        if any(spec.trainer.check_machine() == "cuda" for spec in specs):
            return 1  # a group shares it by streams
        return cores() // max(spec.trainer.threads for spec in specs) or 1


def ways_parser() -> argparse.ArgumentParser:
    """Return the parser of the options on how runs are distributed."""
    ours = argparse.ArgumentParser(add_help=False)
    ours.add_argument("--jobs", type=int)
    ours.add_argument("--group", type=int)
    ours.add_argument("--alone", action="store_true")
    return ours


def conclude(names: Sequence[str], failed: Mapping[int, str]) -> int:
    """Print which of the named runs failed; return the exit code."""
    finished = len(names) - len(failed)
    print(f"{finished} of {counted(len(names), 'run')} {'is' if finished == 1 else 'are'} finished.")
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
    finished = {spec.folder for spec in kept if is_done(spec.folder, spec.identity, spec.seed)}
    first = {spec.folder: at for at, spec in reversed(list(enumerate(specs)))}
    left = [at for folder, at in sorted(first.items(), key=lambda item: item[1]) if folder not in finished]
    teachers: dict[Path, RunSpec] = {}
    for spec in (specs[at] for at in left):
        if spec.teacher is not None and spec.teacher.checkpoint is None:
            teachers[spec.teacher.folder] = spec.teacher
    with launch_folder(Path(specs[0].config["results"])) as folder:
        print(_plan([specs[at] for at in left], len(specs), sum(spec.folder in finished for spec in specs), ways))
        taught = {len(specs) + at: spec for at, spec in enumerate(teachers.values())}
        with _board(folder, taught, "teacher"):
            failed = _do(taught, list(taught), folder, ways, _one_by_one)
        errors = {taught[number].folder: error for number, error in failed.items()}
        by_number = dict(enumerate(specs))
        with _board(folder, by_number, "run"):
            for at in left:
                teacher = specs[at].teacher
                if teacher is not None and teacher.folder in errors:
                    write_answer(folder, at, specs[at], f"its teacher failed: {errors[teacher.folder]}")
            taught_well = [at for at in left if read_answer(folder, at) is None]
            _do(by_number, taught_well, folder, ways, lambda numbers: groups(specs, numbers, ways))
            for at, spec in enumerate(specs):
                if spec.folder in finished:
                    run_group(folder, [at], wait=True)  # finds it finished
                elif first[spec.folder] != at:  # a duplicate
                    shutil.copy(folder / f"{first[spec.folder]}.answer", folder / f"{at}.answer")
        return _errors(folder, range(len(specs)))


@contextlib.contextmanager
def _board(folder: Path, specs: Mapping[int, RunSpec], what: str) -> Iterator[None]:
    """Give runs to the processes, and show their progress."""
    from graphkd.run import write_spec
    from graphkd_cli.board import Board
    from graphkd_cli.printing import console

    for number, spec in specs.items():
        write_spec(spec, folder / f"{number}.yaml")
    with Board(console(), folder, list(specs), what, _apart(specs)):
        yield


def _apart(specs: Mapping[int, RunSpec]) -> dict[int, str]:
    """Return the overrides that tell runs of one name and seed apart, by number."""
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, spec in specs.items():
        alike[spec.variant, spec.seed].append(number)
    found = {}
    for numbers in alike.values():
        varied = {number: specs[number].config.get("varied") or {} for number in numbers}
        keys = sorted({key for of in varied.values() for key in of})
        differing = [key for key in keys if len({of.get(key) for of in varied.values()}) > 1]
        for number, of in varied.items():
            if text := ", ".join(f"{key}={of[key]}" for key in differing if key in of):
                found[number] = text
    return found


def _one_by_one(numbers: Sequence[int]) -> list[list[int]]:
    return [[number] for number in numbers]


def groups(specs: Sequence[StudentSpec], numbers: Sequence[int], ways: Ways) -> list[list[int]]:
    """Return some of the runs, by number, in groups that train together."""
    from graphkd.run.group import cut

    chosen = [specs[number] for number in numbers]
    return [[numbers[at] for at in group] for group in cut(chosen, ways.workers(chosen), ways.largest)]


def job(config: Any) -> None:
    """Execute one group, for a Hydra launcher."""
    run_group(Path(config.folder), list(config.group), config.wait)


def _plan(left: Sequence[StudentSpec], total: int, finished: int, ways: Ways) -> str:
    """Describe the work ahead, in one line."""
    text = counted(total, "run") + (f", {finished} of them already finished" if finished else "")
    if not left:
        return text
    cut = groups(left, range(len(left)), ways)
    smallest, largest = min(map(len, cut)), max(map(len, cut))
    size = f"{largest}" if smallest == largest else f"{smallest} to {largest}"
    together = "" if largest == 1 else f" of {size} that train together"
    threads = max(spec.trainer.threads for spec in left)
    workers = min(ways.workers(left), len(cut))
    how = f"by {ways.launcher[0]}" if ways.launcher else f"in {counted(workers, 'process', 'es')}"
    return f"{text}: {counted(len(cut), 'group')}{together}, {how} of {counted(threads, 'thread')}"


def _do(specs: Mapping[int, RunSpec], numbers: Sequence[int], folder: Path, ways: Ways, cut: Cut) -> dict[int, str]:
    """Execute runs, those that another suite is working on last; return the errors by run number."""
    _rounds(specs, numbers, folder, ways, cut, wait=False)
    busy = [number for number in numbers if (read_answer(folder, number) or {}).get("error") == BUSY]
    for number in busy:
        (folder / f"{number}.answer").unlink()
    _rounds(specs, busy, folder, ways, _one_by_one, wait=True)
    return _errors(folder, numbers)


def _errors(folder: Path, numbers: Iterable[int]) -> dict[int, str]:
    answers = {number: read_answer(folder, number) for number in numbers}
    return {number: answer["error"] for number, answer in answers.items() if answer and answer["error"] is not None}


def _rounds(
    specs: Mapping[int, RunSpec], numbers: Sequence[int], folder: Path, ways: Ways, cut: Cut, wait: bool
) -> None:
    """Execute runs; start those of a dead process again one by one, so that they resume."""
    left, deaths = list(numbers), 0
    while left:
        together = cut(left)
        write_groups(together, folder)
        workers = min(ways.workers([specs[number] for number in left]), len(together))
        reason = _spread(together, folder, ways, workers, wait)
        missing = [number for number in left if read_answer(folder, number) is None]
        deaths, cut = (deaths + 1 if len(missing) == len(left) else 1), _one_by_one
        left = missing
        if left and deaths == MOST_DEATHS:
            for number in left:
                write_answer(folder, number, specs[number], f"its process died: {reason}")
            return
        if left:
            print(f"a process died ({reason}); continuing with {counted(len(left), 'run')}", file=sys.stderr)


def _spread(together: Sequence[Sequence[int]], folder: Path, ways: Ways, workers: int, wait: bool) -> str:
    """Execute groups in this process, in several or by a Hydra launcher; return how a process died, if one did."""
    from graphkd.run import processes

    if ways.launcher:
        words = [*ways.launcher, f"folder={quoted(str(folder))}", f"wait={str(wait).lower()}"]
        try:
            compose.launch("launch", words, [[f"group={list(group)}"] for group in together], job, ways.config_dir)
        except BrokenExecutor as error:
            return one_line(error)
        return ""
    if workers == 1:
        run_groups(folder, wait)
        return ""
    words = [str(folder), *([] if wait else [LEAVE_BUSY])]
    codes = processes.share_work(MODULE, words, workers, folder)
    for file in sorted(folder.glob("process-*.err")):
        sys.stderr.write(file.read_text(errors="replace"))
        file.unlink()
    for file in folder.glob("*.status"):  # of dead processes
        file.unlink()
    return ", ".join(sorted({f"exit code {code}" for code in codes if code}))
