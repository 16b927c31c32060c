"""Suites that are killed, lose a worker or meet another one end as one that ran alone."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from crashes import DIFFERENT, Command, Machine, descendants, latest, left_by

from graphkd.report.metrics import METRICS
from graphkd_cli import compose
from graphkd_cli.main import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@pytest.fixture
def suite(machine: Machine, tiny_words: list[str]) -> list[str]:
    """The words that run a suite of four runs, which take a moment each."""
    base = [*tiny_words, "trainer.epochs=20", "trainer.checkpoint_every=1 steps", "trainer.accelerator=cpu"]
    (machine.folder / "own" / "ablation").mkdir(parents=True)
    (machine.folder / "own" / "ablation" / "mini.yaml").write_text(
        json.dumps(
            {
                "description": "a small one", "seeds": [0, 1], "base": base,
                "variants": {"taught": ["objective=kd"], "alone": ["objective=ce"]},
            }
        )
    )  # fmt: skip
    return ["ablation", "mini", "--config-dir", str(machine.folder / "own")]


def run_folders(results: Path) -> list[Path]:
    """Those of all runs; other folders may vanish meanwhile, which `os.walk` does not mind."""
    return [Path(place) for place, _, _ in os.walk(results) if os.path.basename(place).startswith("seed-")]


def done(results: Path) -> dict[Path, int]:
    """When each finished run was written."""
    paths = [folder / "record.json" for folder in run_folders(results)]
    there = [path for path in paths if path.exists()]
    return {path: path.stat().st_mtime_ns for path in there if json.loads(path.read_text())["status"] == "done"}


def tables(results: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of the CSV tables, without the columns of times and memory."""
    return {path.name: _rows(path) for path in sorted((results / "tables").glob("*.csv"))}


def _rows(path: Path) -> list[dict[str, str]]:
    left_out = tuple(f"{name}_" for name in METRICS if name in DIFFERENT)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if not name.startswith(left_out)} for row in rows]


def check_equal(torn: Path, whole: Path) -> None:
    assert left_by(torn) == left_by(whole)
    expected = tables(whole)
    ((first, *_),) = expected.values()
    assert {"variant", "test_top1_last_mean", "test_nll_last_std"} <= first.keys()
    assert not any("seconds" in name or "memory" in name for name in first)
    assert tables(torn) == expected


def trained(command: Command) -> list[str]:
    """The runs that this command trained itself."""
    return re.findall(r"^(\w+ seed \d): .* in ", command.output, re.MULTILINE)


def kill_again_and_again(machine: Machine, suite: list[str], chance: random.Random, times: int) -> None:
    """Kills the suite whenever some more runs and checkpoints are there; what is finished is never written again."""
    torn = machine.folder / "torn"
    known: dict[Path, int] = {}
    for _ in range(times):
        command = machine.start([*suite, "results=torn"])
        steps = chance.randint(1, 12)
        before = sum(map(latest, run_folders(torn)))
        command.wait_for(
            lambda: (
                len(done(torn)) > len(known)  # noqa: B023 (called at once)
                or sum(map(latest, run_folders(torn))) > before + steps  # noqa: B023
            )
        )
        command.kill()
        now = done(torn)
        assert known.items() <= now.items()
        known = now
    machine.finish([*suite, "results=torn"])
    assert known.items() <= done(torn).items()
    assert {path.name for path in torn.iterdir()} == {"mini", "tables", "teachers"}


@pytest.mark.soak
def test_killed_anywhere_it_ends_as_if_it_had_not_been(machine: Machine, suite: list[str]) -> None:
    machine.finish([*suite, "results=whole"])
    kill_again_and_again(machine, suite, random.Random(0), 6)
    check_equal(machine.folder / "torn", machine.folder / "whole")


@pytest.mark.soak
@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "popen_loky"),
        (["--jobs", "2"], "graphkd_cli.groups"),
    ],
    ids=["joblib", "own"],
)
def test_a_worker_may_be_killed(words: list[str], sign: str, machine: Machine, suite: list[str]) -> None:
    if sign == "popen_loky":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    machine.finish([*suite, "results=whole"])
    torn = machine.folder / "torn"
    command = machine.start([*suite, "results=torn", *words])

    def workers() -> list[int]:
        return sorted(pid for pid, line in descendants(command.pid).items() if sign in line)

    for count in (1, 2):
        before = max((latest(folder) for folder in torn.glob("mini/**/seed-*")), default=-1)
        assert command.wait_for(lambda: any(latest(f) > before for f in torn.glob("mini/**/seed-*")))  # noqa: B023
        known = done(torn)
        os.kill(random.Random(count).choice(workers()), signal.SIGKILL)
        assert command.wait_for(lambda: command.output.count("a process died") == count)  # noqa: B023
    assert command.wait() == 0, command.output
    assert "4 of 4 runs are finished." in command.output
    assert known.items() <= done(torn).items(), "what was finished is not done again"
    assert len(trained(command)) == len(set(trained(command))) >= 4, "every run once"
    check_equal(torn, machine.folder / "whole")


MIXED = {
    "shared": ["objective=hkd_kd", "objective.hkd.dim=8"],
    "explicit": ["objective=hkd", "objective.hkd.dim=8", "objective.hkd.sampler=explicit"],
    "queue": ["objective=hkd", "objective.hkd.dim=8", "bank.kind=queue", "bank.length=200"],
    "crd": ["objective=crd_kd"],
    "ft": ["objective=ft", "objective.ft.stage_epochs=2"],
    "sskd": ["objective=sskd", "objective.sskd.stage_epochs=1", "trainer.epochs=8"],
    "alone": ["objective=ce"],
}


@pytest.mark.soak
def test_a_group_of_all_kinds_ends_as_its_runs_do_alone(machine: Machine, suite: list[str]) -> None:
    """Killed, terminated and interrupted in turn."""
    file = machine.folder / "own" / "ablation" / "mini.yaml"
    document = json.loads(file.read_text())
    base = [*document["base"], "negatives=16", "trainer.epochs=40"]
    file.write_text(json.dumps({**document, "seeds": [0], "base": base, "variants": MIXED}))
    machine.finish([*suite, "--alone", "results=whole"])
    torn, chance, met = machine.folder / "torn", random.Random(0), 0
    for number in range(14):
        command = machine.start([*suite, "--jobs", "1", "results=torn"])
        before, steps = sum(map(latest, run_folders(torn))), chance.randint(5, 40)
        if command.wait_for(lambda: sum(map(latest, run_folders(torn))) > before + steps):  # noqa: B023
            os.kill(command.pid, [signal.SIGKILL, signal.SIGTERM, signal.SIGINT][number % 3])
            met += command.wait() in (-signal.SIGKILL, 143, 130)
    machine.finish([*suite, "--jobs", "1", "results=torn"])
    assert met >= 10
    check_equal(torn, machine.folder / "whole")


def test_two_suites_at_once_share_the_work(machine: Machine, suite: list[str]) -> None:
    both = [machine.start([*suite, "--jobs", "1", "results=shared", "trainer.epochs=5"]) for _ in range(2)]
    assert [command.wait() for command in both] == [0, 0], both[0].output + both[1].output
    assert sorted(trained(both[0]) + trained(both[1])) == [
        "alone seed 0", "alone seed 1", "resnet8 seed 0", "taught seed 0", "taught seed 1",
    ]  # fmt: skip
    assert all("4 of 4 runs are finished." in command.output for command in both)
    assert {path.name for path in (machine.folder / "shared").iterdir()} == {"mini", "tables", "teachers"}


class Broken:
    """A launcher whose first rounds break after some jobs."""

    def __init__(self, done_each_round: list[int]) -> None:
        self.rounds = done_each_round
        self.asked: list[list[str]] = []

    def __call__(self, name: str, overrides: list[str], jobs: list[list[str]], *rest: Any) -> list[Any]:
        self.asked.append([word for job in jobs for word in job])
        if self.rounds:
            self.launch(name, overrides, jobs[: self.rounds.pop(0)], *rest)
            raise BrokenExecutor("a worker was killed")
        return self.launch(name, overrides, jobs, *rest)

    launch = staticmethod(compose.launch)


def test_after_a_broken_pool_what_is_missing_is_launched_again(
    machine: Machine, suite: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(machine.folder)
    launcher = Broken([1, 1, 0, 2])
    monkeypatch.setattr(compose, "launch", launcher)
    assert main([*suite, "results=torn", "trainer.epochs=1", "--alone", "hydra/launcher=basic"]) == 0
    assert [len(asked) for asked in launcher.asked] == [1, 4, 3, 3, 1]
    assert capsys.readouterr().out.count("(already finished)") == 0


def test_a_pool_that_always_breaks_is_given_up(
    machine: Machine, suite: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(machine.folder)
    launcher = Broken([9, 1, *[0] * 9])
    monkeypatch.setattr(compose, "launch", launcher)
    assert main([*suite, "results=torn", "trainer.epochs=1", "--alone", "hydra/launcher=basic"]) == 1
    out = capsys.readouterr().out
    assert "1 of 4 runs is finished." in out
    assert len(re.findall(r"^failed: .*: its process died: BrokenExecutor: a worker was killed$", out, re.M)) == 3
