"""Runs that train together, on one stream of batches and teacher outputs, come to the same bytes as alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphkd.engine.callback import Callback
from graphkd.errors import UserError
from graphkd.report import record as records
from graphkd.run import RunResult, StudentSpec, parse, run, run_together
from graphkd.run.folder import BusyError, locked
from graphkd_cli.compose import compose

SHORT = [
    "trainer.epochs=2", "trainer.threads=1", "teacher_trainer.epochs=1", "data.train_fraction=0.15", "negatives=16",
    "student={name: resnet8, widths: [2, 2, 4, 4]}", "teacher={name: resnet8, widths: [2, 2, 4, 8]}",
]  # fmt: skip
MEMBERS = {
    "ce": ["objective=ce"],
    "ce, other epochs": ["objective=ce", "trainer.epochs=3"],
    "kd": ["objective=kd"],
    "hkd shared": ["objective=hkd_kd", "gnn=gat"],
    "hkd explicit": ["objective=hkd", "objective.hkd.sampler=explicit", "builder=label_aware"],
    "hkd all_weighted": ["objective=hkd", "objective.hkd.sampler=all_weighted", "gnn=sage"],
    "hkd all": ["objective=hkd", "objective.hkd.sampler=all", "builder=bank_knn", "objective.hkd.prune_unreliable=0.9"],
    "hkd queue": ["objective=hkd", "bank.kind=queue", "bank.length=64", "builder=threshold"],
    "crd": ["objective=crd_kd"],
    "ft": ["objective=ft", "objective.ft.stage_epochs=1"],
    "kd on two views": ["objective=kd_views"],
    "hkd on vrm's graph": ["objective=hkd", "builder=virtual", "objective.hkd.prune_unreliable=0.9"],
    "vrm on a random graph": ["objective=vrm_kd", "builder=random"],
    "sskd": ["objective=sskd", "objective.sskd.stage_epochs=1", "trainer.epochs=1"],
    "kd and sskd on other views": [
        "objective=sskd_kd",
        "objective.sskd.stage_epochs=1",
        "trainer.epochs=1",
        "objective.kd.views=[strong]",
    ],
    "kd averaged": ["objective=kd", "trainer.ema=0.9", "trainer.accumulate=2", "trainer.clip_norm=1.0"],
    "kd by adamw": ["objective=kd", "trainer.optimizer=adamw", "trainer.lr=0.001", "trainer.schedule=cosine"],
}


class Stop(Callback):
    """Raises after so many steps."""

    def __init__(self, steps: int, error: BaseException) -> None:
        self.left, self.error = steps, error

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def spec(name: str, results: Path, words: Sequence[str] = ()) -> StudentSpec:
    variant = f"variant='{name.translate({32: '-', 39: None, 44: None})}'"
    return parse(compose([*SHORT, *MEMBERS[name], variant, f"results={results}", *words]).config)


def contents(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times and memory."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((folder / "record.json").read_text())
    for each in (*metrics, record):
        for name in ("seconds", "duration_s", "seconds_per_step", "peak_memory_mib", "phases", "group_size"):
            each.pop(name, None)
    return {
        "student": (folder / "student.safetensors").read_bytes(), "metrics": metrics, "record": record,
        "files": sorted(path.name for path in folder.iterdir()),
    }  # fmt: skip


def together(specs: Sequence[StudentSpec], callbacks: Sequence[Callback] = (), **options: Any) -> list[Any]:
    return run_together(specs, callbacks or [Callback() for _ in specs], **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each member comes to by itself."""
    results = tmp_path_factory.mktemp("alone")
    return {name: contents(run(spec(name, results)).folder) for name in MEMBERS}


def test_all_kinds_of_runs_come_to_the_same_bytes_together(alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    names = [*MEMBERS][::-1]
    outcomes = together([spec(name, tmp_path) for name in names])
    for name, outcome in zip(names, outcomes, strict=True):
        assert isinstance(outcome, RunResult), outcome
        assert outcome.record.group_size == len(MEMBERS)
        assert contents(outcome.folder) == alone[name], name


@pytest.mark.gpu
def test_on_a_gpu_they_come_to_what_they_come_to_alone(tmp_path: Path) -> None:
    """Sums in another order differ in the last bits, which a few steps do not make large."""
    words = ["trainer.epochs=1", "trainer.accelerator=cuda"]
    names = [name for name in MEMBERS if "epochs" not in name]
    apart = [run(spec(name, tmp_path / "alone", words)) for name in names]
    for name, one, other in zip(
        names, apart, together([spec(name, tmp_path / "together", words) for name in names]), strict=True
    ):
        assert isinstance(other, RunResult), other
        assert other.record.group_size == len(names)
        assert "cpu" not in (one.record.device, other.record.device)
        torch.testing.assert_close(
            *(load_file(each.folder / "student.safetensors") for each in (one, other)), rtol=1e-3, atol=1e-4, msg=name
        )


@pytest.mark.gpu
def test_on_a_gpu_a_run_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    words = ["trainer.epochs=1", "trainer.accelerator=cuda", "trainer.checkpoint_every=1 steps"]
    whole, part = (spec("hkd shared", tmp_path / name, words) for name in ("whole", "part"))
    with pytest.raises(KeyboardInterrupt):
        run(part, Stop(1, KeyboardInterrupt()))
    states = [load_file(run(each).folder / "student.safetensors") for each in (whole, part)]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["kd", "kd on two views", "ft"])  # others draw on the device, from its own generator
def test_a_gpu_trains_like_the_cpu(name: str, tmp_path: Path) -> None:
    totals = []
    for kind in ("cpu", "cuda"):
        folder = run(spec(name, tmp_path / kind, ["trainer.epochs=1", f"trainer.accelerator={kind}"])).folder
        totals.append([json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert totals[0] == pytest.approx(totals[1], rel=1e-2)


def test_a_member_that_fails_stops_no_other(alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    names = ["kd", "hkd shared", "ce"]
    specs = [spec(names[0], tmp_path, ["trainer.lr=1e30"]), *(spec(name, tmp_path) for name in names[1:])]
    failed, *others = together(specs)
    assert "the loss is nan" in str(failed)
    assert records.read(specs[0].folder / "record.json").status == "failed"
    for name, outcome in zip(names[1:], others, strict=True):
        assert contents(outcome.folder) == alone[name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_members_at_different_places_catch_up(
    error: BaseException, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The second stands elsewhere, from an interruption of its own."""
    names = ["ft", "hkd explicit", "crd", "vrm on a random graph"]
    often = ["trainer.checkpoint_every=1 steps"]
    specs = [spec(name, tmp_path, often) for name in names]
    with pytest.raises(type(error)):
        run(specs[1], Stop(3, error))
    with pytest.raises(type(error)):
        together(specs, [Stop(4, error), Callback(), Callback(), Callback()])
    for name, outcome in zip(names, together(specs), strict=True):
        assert contents(outcome.folder) == alone[name]


def test_what_is_finished_or_busy_is_left_out(alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    names = ["ce", "kd", "hkd shared"]
    specs = [spec(name, tmp_path) for name in names]
    run(specs[0])
    with locked(specs[1].folder, Callback()):
        there, busy, trained = together(specs, wait=False)
    assert there.reused
    assert isinstance(busy, BusyError)
    assert not specs[1].folder.exists()
    assert contents(trained.folder) == alone[names[2]]


def test_a_batch_waits_once_for_the_readers_of_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU their steps on the same batch overlap."""
    run(spec("kd", tmp_path))  # the teacher is there
    waited: list[Any] = []
    monkeypatch.setattr("graphkd.engine.together._Member.wait", lambda member: waited.append(member))
    specs = [spec(name, tmp_path) for name in ("crd", "hkd shared")]
    counter = Stop(1000, KeyboardInterrupt())
    together(specs, [counter, Callback()])
    steps = 1000 - counter.left
    assert steps > 0
    assert len(waited) == steps * len(specs)


def test_times_are_the_runs_own_and_its_share(tmp_path: Path) -> None:
    one, two = together([spec(name, tmp_path) for name in ("kd", "hkd shared")])
    assert one.record.phases.keys() == {"data", "student", "teacher", "ce", "kd", "backward", "optimizer"}
    for name in ("data", "teacher"):
        assert one.record.phases[name] == pytest.approx(two.record.phases[name], rel=1e-6)


def test_a_teacher_that_fails_keeps_no_run_without_one_from_training(
    alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    kd, ce = together([spec("kd", tmp_path, ["teacher_trainer.lr=1e30"]), spec("ce", tmp_path)])
    assert "the loss is nan" in str(kd)
    assert contents(ce.folder) == alone["ce"]


def test_without_memory_for_two_they_train_one_after_the_other(
    alone: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphkd.engine.memory.available_bytes", lambda device: 0)
    names = ["kd", "hkd shared", "ce"]
    for name, outcome in zip(names, together([spec(name, tmp_path) for name in names]), strict=True):
        assert outcome.record.group_size == 1
        assert contents(outcome.folder) == alone[name]


def test_a_batch_that_cannot_be_read_is_every_members_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("image 17 is gone")
        yield

    monkeypatch.setattr("graphkd.data.tensor.TensorDataset.train_batches", broken)
    outcomes = together([spec(name, tmp_path) for name in ("ce", "ce, other epochs")])
    assert [str(outcome) for outcome in outcomes] == ["image 17 is gone"] * 2


def test_a_folder_is_not_written_by_two_of_a_group(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs that train together share a folder"):
        together([spec("ce", tmp_path), spec("ce", tmp_path)])


def test_what_fails_after_its_record_stays_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("graphkd.run.execution.replace_folder", full)
    one = spec("ce", tmp_path)
    (failed,) = together([one])
    assert "no space left" in str(failed)
    assert records.read(one.folder / "record.json").status == "done"
