"""Runs that are killed and started again end as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from crashes import Command, Machine, descendants, latest, left_by, moments

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

PROMPT_S = 20.0
"""Within what a process leaves that is told to, on a machine with other work."""
EPOCHS = 20
BATCHES = 2
COMMON = [
    f"trainer.epochs={EPOCHS}", "trainer.checkpoint_every=1 steps", "trainer.accelerator=cpu",
]  # fmt: skip
HKD = ["objective=hkd_kd", "objective.hkd.dim=8", "negatives=16"]
QUEUE = ["bank.kind=queue", "bank.length=200"]
CASES = {
    **{
        f"{sampler}-{kind}": [*HKD, f"objective.hkd.sampler={sampler}", *(QUEUE if kind == "queue" else [])]
        for sampler in ("shared", "explicit", "all", "all_weighted")
        for kind in ("full", "queue")
    },
    "crd": ["objective=crd_kd", "negatives=16"],
    "ft": ["objective=ft", "objective.ft.stage_epochs=2"],
    "sskd": ["objective=sskd", "objective.sskd.stage_epochs=1"],
}


def run_of(results: Path) -> Path:
    """The one student's folder below the results."""
    (place,) = (path.parent for path in results.rglob("student.safetensors"))
    return place.relative_to(results)


@pytest.fixture
def common(tiny_words: list[str]) -> list[str]:
    return ["run", *tiny_words, *COMMON]


def survive(machine: Machine, words: list[str], kills: int, seed: int) -> int:
    """Runs it once undisturbed and once killed again and again; how many kills met it alive."""
    started = time.monotonic()
    machine.finish([*words, "results=whole"])
    seconds = time.monotonic() - started
    whole, torn = machine.folder / "whole", machine.folder / "torn"
    shutil.copytree(whole / "teachers", torn / "teachers")
    folder = torn / run_of(whole)
    done = 0
    for moment in moments(random.Random(seed), folder, EPOCHS * BATCHES, seconds, kills):
        command = machine.start([*words, "results=torn"])
        command.wait_for(moment())
        done += command.kill()
    machine.finish([*words, "results=torn"])
    assert left_by(torn) == left_by(whole)
    return done


def test_a_run_killed_three_times_ends_as_if_it_had_not_been(machine: Machine, common: list[str]) -> None:
    assert survive(machine, [*common, *CASES["shared-queue"]], kills=3, seed=1) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_killed_anywhere_it_goes_on_bit_for_bit(machine: Machine, common: list[str], case: str) -> None:
    done = survive(machine, [*common, *CASES[case]], kills=6, seed=list(CASES).index(case))
    print(f"{case}: killed {done} times")
    assert done >= 4


@pytest.mark.soak
def test_the_teacher_is_trained_on_too(machine: Machine, common: list[str]) -> None:
    words = [*common, *HKD, "teacher_trainer.epochs=15", "teacher_trainer.checkpoint_every=1 steps"]
    machine.finish([*words, "results=whole"])
    whole, torn = machine.folder / "whole", machine.folder / "torn"
    (teacher,) = (path.parent for path in whole.rglob("teacher.safetensors"))
    chance = random.Random(0)
    for moment in moments(chance, torn / teacher.relative_to(whole), 30, 1.0, 5):
        command = machine.start([*words, "results=torn"])
        command.wait_for(moment())
        command.kill()
    machine.finish([*words, "results=torn"])
    assert left_by(torn) == left_by(whole)


def workers_of(command: Command) -> list[int]:
    """The processes of its ranks, in order."""
    return sorted(pid for pid, line in descendants(command.pid).items() if "graphkd_cli.worker" in line)


def is_alive(pid: int) -> bool:
    """Whether a process that is nobody's child here still runs."""
    try:
        return "\nState:\tZ" not in (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return False


def check_gone(processes: list[int]) -> None:
    """They leave by themselves."""
    deadline = time.monotonic() + PROMPT_S
    while any(is_alive(pid) for pid in processes):
        assert time.monotonic() < deadline, "they stay behind"
        time.sleep(0.1)


@pytest.mark.soak
def test_on_two_devices_it_may_be_interrupted_and_lose_its_parent(machine: Machine, common: list[str]) -> None:
    words = [*common, *CASES["shared-full"], "trainer.devices=2"]
    machine.finish([*words, "results=whole"])
    whole, torn = machine.folder / "whole", machine.folder / "torn"
    shutil.copytree(whole / "teachers", torn / "teachers")
    folder = torn / run_of(whole)

    interrupted = machine.start([*words, "results=torn"])
    assert interrupted.wait_for(lambda: latest(folder) >= 3)
    workers = workers_of(interrupted)
    interrupted.interrupt()
    started = time.monotonic()
    assert interrupted.wait() == 130
    assert time.monotonic() - started < PROMPT_S
    assert interrupted.output.splitlines()[-1] == "graphkd: interrupted; run the same command again to resume"
    assert interrupted.output.count("graphkd: ") == 1
    assert not any(is_alive(pid) for pid in workers)
    reached = latest(folder)
    assert reached >= 3

    for steps in (3, 0):
        orphaning = machine.start([*words, "results=torn"])
        number = latest(folder) + steps
        # Without a step they are still at their imports.
        assert orphaning.wait_for(lambda: latest(folder) >= number and len(workers_of(orphaning)) == 2)  # noqa: B023
        workers = workers_of(orphaning)
        assert len(workers) == 2
        assert orphaning.kill()
        check_gone(workers)
    assert latest(folder) > reached

    machine.finish([*words, "results=torn"])
    assert left_by(torn) == left_by(whole)


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_one_is_killed(machine: Machine, common: list[str], rank: int) -> None:
    words = [*common, *CASES["shared-full"], "trainer.devices=2", "trainer.epochs=150"]
    machine.finish([*words, "results=whole"])
    whole, torn = machine.folder / "whole", machine.folder / "torn"
    shutil.copytree(whole / "teachers", torn / "teachers")
    folder = torn / run_of(whole)
    chance = random.Random(rank)
    for _ in range(2):
        command = machine.start([*words, "results=torn"])
        number = latest(folder) + chance.randint(1, 150)
        assert command.wait_for(lambda: latest(folder) >= number)  # noqa: B023 (called at once)
        workers = workers_of(command)
        assert len(workers) == 2
        os.kill(workers[rank], signal.SIGKILL)
        assert command.wait() == 1
        assert f"rank {rank} of 2 died" in command.output
    machine.finish([*words, "results=torn"])
    assert left_by(torn) == left_by(whole)


@pytest.mark.soak
def test_what_all_of_two_processes_refuse_is_told_once(machine: Machine, common: list[str]) -> None:
    (machine.folder / "torn.safetensors").write_bytes(b"torn")
    refused = machine.start([*common, "trainer.devices=2", "teacher.checkpoint=torn.safetensors"])
    assert refused.wait() == 2
    assert "torn.safetensors" in refused.output
    assert refused.output.count("graphkd: ") == 1
