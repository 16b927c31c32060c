from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import safetensors.torch
import torch
import yaml

import graphkd
from graphkd import DATASETS, MODELS, UserError, load
from graphkd.engine.callback import Callback
from graphkd.engine.evaluate import Evaluation, evaluate
from graphkd.engine.trainer import Trainer
from graphkd.engine.weights import load_weights, save_weights
from graphkd.report import record as records
from graphkd.report.record import Record, Teacher
from graphkd.run import RunResult, StudentSpec, parse, parse_teacher, run

Config = Callable[..., dict[str, Any]]
ALONE = {"objective": {"ce": "ce"}}
FILES = {"config.yaml", "data.json", "metrics.jsonl", "record.json", "student.safetensors"}
RAISING = """
from pathlib import Path

from graphkd import OBJECTIVES
from graphkd.objective.ce import CrossEntropy

TROUBLE = Path(__file__).with_name("trouble")

class Stopped(BaseException):
    "As when a signal arrives."

KINDS = {"error": RuntimeError("out of\\nluck"), "interrupt": KeyboardInterrupt(), "stop": Stopped()}

@OBJECTIVES.register("raising")
class Raising(CrossEntropy):
    "Fails as long as there is a file beside it that says how."

    def after_step(self):
        if TROUBLE.exists():
            raise KINDS[TROUBLE.read_text()]
"""


class Notes(Callback):
    """What the user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def trouble(plugin: Callable[[str, str], Path]) -> Path:
    """The file that says how the objective `raising` is to fail."""
    return plugin("raising", RAISING).with_name("trouble")


def raising(config: Config, changes: dict[str, Any] | None = None) -> StudentSpec:
    """A run of the objective that fails where there is trouble."""
    return parse(config({"plugins": ["raising"], "objective": {"ce": "raising"}, **(changes or {})}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record_of(result: RunResult) -> Record:
    return records.read(result.folder / "record.json")


def lines_of(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


# What a run leaves


def test_leaves_config_metrics_weights_and_record(tiny_config: Config) -> None:
    config = tiny_config({"trainer.epochs": 3})
    result = run(parse(config))
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert yaml.safe_load((result.folder / "config.yaml").read_text()) == {**config, "varied": {}}
    assert [line["epoch"] for line in lines_of(result)] == [1, 2, 3]
    assert record_of(result) == result.record


def test_the_record_says_what_was_run_and_what_came_of_it(tiny_config: Config) -> None:
    spec = parse(tiny_config({"trainer.epochs": 4, "seed": 2, "study": "s", "varied": {"gnn": "tag"}}))
    result = run(spec)
    record, lines = result.record, lines_of(result)
    said = (record.kind, record.status, record.study, record.variant, record.pair, record.varied, record.seed)
    assert said == ("student", "done", "s", "ce+kd+hkd-knn-tag", "resnet8->resnet8", {"gnn": "tag"}, 2)
    assert record.identity == spec.identity
    assert record.teacher is not None
    assert spec.teacher is not None
    assert record.teacher.identity == spec.teacher.identity
    assert (record.device, record.threads) == ("cpu", 1)
    assert {"python", "torch", "dgl"} <= record.versions.keys()
    assert record.code.version == graphkd_version()
    assert record.duration_s is not None
    assert record.seconds_per_step is not None
    assert 0 < record.seconds_per_step < record.duration_s
    assert record.peak_memory_mib is not None
    metrics = record.metrics
    test, val = ([line[split]["top1"] for line in lines] for split in ("test", "val"))
    best = val.index(max(val))
    assert metrics.test_top1_last == test[-1]
    assert (metrics.val_top1_best, metrics.test_top1_at_best_val) == (val[best], test[best])
    assert metrics.test_top1_max == max(test)
    assert (metrics.test_top5_last, metrics.test_nll_last) == (lines[-1]["test"]["top5"], lines[-1]["test"]["nll"])
    assert metrics.agreement_last == lines[-1]["test"]["agreement"]
    assert metrics.terms.keys() == {"ce", "kd", "hkd.individual", "hkd.holistic"}
    for name, term in metrics.terms.items():
        assert dataclasses.asdict(term) == lines[-1]["terms"][name]
    assert metrics.terms["hkd.holistic"].weighted == pytest.approx(3 * (metrics.terms["hkd.holistic"].raw or 0))


def graphkd_version() -> str:
    from importlib.metadata import version

    return version("graphkd")


def test_the_weights_are_the_last_epochs_under_plain_names(tiny_config: Config) -> None:
    spec = parse(tiny_config({**ALONE, "trainer.epochs": 3}))
    result = run(spec)
    dataset = spec.data.build()
    student = spec.network(dataset)
    spec.trainer.fit(student, spec.build(dataset).objective, dataset, seed=spec.seed)
    saved = safetensors.torch.load_file(result.folder / "student.safetensors")
    assert saved.keys() == student.state_dict().keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in student.state_dict().items())


def test_the_same_run_elsewhere_gives_the_same_bytes(tiny_config: Config, tmp_path: Path) -> None:
    first, second = (run(parse(tiny_config({"results": str(tmp_path / name)}))) for name in ("one", "two"))
    weights = [(result.folder / "student.safetensors").read_bytes() for result in (first, second)]
    assert weights[0] == weights[1]
    assert first.record.metrics == second.record.metrics


def test_without_validation_data_there_are_no_validation_figures(tiny_config: Config) -> None:
    metrics = run(parse(tiny_config({**ALONE, "data.val_fraction": 0.0}))).record.metrics
    assert metrics.val_top1_best is None
    assert metrics.test_top1_at_best_val is None
    assert metrics.test_top1_last is not None


# The same run again


def test_a_finished_run_is_there_already(tiny_config: Config) -> None:
    first = run(parse(tiny_config()))
    before = contents(first.folder.parent)
    times = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = run(parse(tiny_config()))
    assert (first.reused, again.reused) == (False, True)
    assert again.record == first.record
    assert contents(first.folder.parent) == before
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == times


def test_other_options_and_seeds_are_other_runs(tiny_config: Config) -> None:
    folders = [
        run(parse(tiny_config({**ALONE, **changes}))).folder for changes in ({}, {"seed": 1}, {"trainer.lr": 0.1})
    ]
    assert len(set(folders)) == 3
    assert folders[0].parent == folders[1].parent


def test_force_runs_it_again(tiny_config: Config) -> None:
    first = run(parse(tiny_config(ALONE)))
    (first.folder / "notes.txt").write_text("mine")
    again = run(parse(tiny_config({**ALONE, "force": True})))
    assert not again.reused
    assert again.folder == first.folder
    assert {path.name for path in again.folder.iterdir()} == FILES
    assert again.record.metrics == first.record.metrics
    assert [path.name for path in again.folder.parent.iterdir() if path.is_dir()] == ["seed-0"]


@pytest.mark.parametrize("kind", ["error", "interrupt", "stop"])
def test_a_forced_run_that_fails_leaves_the_old_one(tiny_config: Config, trouble: Path, kind: str) -> None:
    first = run(raising(tiny_config))
    before = contents(first.folder)
    trouble.write_text(kind)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        run(raising(tiny_config, {"force": True}))
    assert contents(first.folder) == before
    assert run(raising(tiny_config)).reused
    trouble.unlink()
    again = run(raising(tiny_config, {"force": True}))
    assert not again.reused
    assert [path.name for path in again.folder.parent.iterdir() if path.is_dir()] == ["seed-0"]


# A run that fails


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [("error", "failed", "RuntimeError: out of"), ("interrupt", "running", None), ("stop", "running", None)],
)
def test_a_failed_run_is_recorded_and_can_be_run_again(
    tiny_config: Config, trouble: Path, kind: str, status: str, reason: str | None
) -> None:
    trouble.write_text(kind)
    spec = raising(tiny_config)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        run(spec)
    record = records.read(spec.folder / "record.json")
    assert (record.status, record.error, record.identity) == (status, reason, spec.identity)
    assert not (spec.folder / "student.safetensors").exists()
    with pytest.raises(UserError, match=f"not finished: it is {status}"):
        graphkd.load(spec.folder)
    trouble.unlink()
    again = run(spec)
    assert again.record.status == "done"
    assert {path.name for path in again.folder.iterdir()} == FILES


class CtrlC(Callback):
    """Presses it after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    tiny_config: Config, tmp_path: Path, steps: int
) -> None:
    changes = {"trainer.epochs": 2}
    whole = run(parse(tiny_config({**changes, "run_dir": str(tmp_path / "whole")})))
    spec = parse(tiny_config(changes))
    told = CtrlC(steps)
    with pytest.raises(KeyboardInterrupt):
        run(spec, told)
    assert told.notes[-1] == "stopping: the state is saved first (Ctrl-C again stops at once)"
    assert records.read(spec.folder / "record.json").status == "running"
    resumed = run(spec)
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert resumed.record.metrics == whole.record.metrics
    one, other = (result.folder / "student.safetensors" for result in (whole, resumed))
    assert one.read_bytes() == other.read_bytes()
    assert without_times(resumed.folder / "metrics.jsonl") == without_times(whole.folder / "metrics.jsonl")


def test_a_replacement_that_was_cut_off_is_mended(tiny_config: Config) -> None:
    spec = parse(tiny_config(ALONE))
    folder = run(spec).folder
    before = contents(folder)
    folder.rename(folder.with_name(f".{folder.name}.old"))
    assert run(spec).reused
    assert contents(folder) == before


def test_while_it_runs_the_record_says_so(tiny_config: Config) -> None:
    spec = parse(tiny_config(ALONE))

    class Look(Callback):
        seen: Record | None = None

        def step(self) -> None:
            self.seen = records.read(spec.folder / "record.json")

    look = Look()
    run(spec, look)
    assert look.seen is not None
    assert look.seen.status == "running"
    assert look.seen.metrics.test_top1_last is None


def test_a_run_that_died_is_run_again(tiny_config: Config) -> None:
    spec = parse(tiny_config(ALONE))
    done = run(spec)
    records.write(dataclasses.replace(done.record, status="running"), done.folder / "record.json")
    assert not run(spec).reused


@pytest.mark.parametrize(
    "changes",
    [
        {"negatives": 0, "objective.hkd.negatives": 0},
        {"builder.k": 0},
        {"objective.hkd.weight": {"individul": 1.0}},
        {"data.test_fraction": 2.0},
        {"gnn": {"name": "gat", "heads": 3}},
    ],
)
def test_what_cannot_be_built_leaves_no_trace(tiny_config: Config, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        run(parse(tiny_config(changes)))
    assert not (tmp_path / "results").exists()


# Its folder


def test_run_dir_sets_the_folder(tiny_config: Config, tmp_path: Path) -> None:
    result = run(parse(tiny_config({**ALONE, "run_dir": str(tmp_path / "out")})))
    assert result.folder == tmp_path / "out"
    assert {path.name for path in result.folder.iterdir()} == FILES
    (tmp_path / "empty").mkdir()
    assert run(parse(tiny_config({**ALONE, "run_dir": str(tmp_path / "empty")}))).record.status == "done"


@pytest.mark.parametrize("changes", [{"seed": 1}, {"trainer.lr": 0.2}])
def test_the_folder_of_another_run_is_left_alone(tiny_config: Config, tmp_path: Path, changes: dict[str, Any]) -> None:
    place = {**ALONE, "run_dir": str(tmp_path / "out")}
    before = contents(run(parse(tiny_config(place))).folder)
    for force in (False, True):
        with pytest.raises(UserError, match="holds another run"):
            run(parse(tiny_config({**place, **changes, "force": force})))
    assert contents(tmp_path / "out") == before


def test_a_folder_with_other_things_is_refused_before_a_teacher_is_trained(tiny_config: Config, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no run"):
        run(parse(tiny_config({"run_dir": str(place)})))
    assert contents(place) == {"thesis.tex": b"precious"}
    assert not (tmp_path / "results").exists()


VIT = """
import torch
from torchvision.models import VisionTransformer
from graphkd.model import MODELS, Wrapped

@MODELS.register("small_vit")
class SmallVit(Wrapped):
    def __init__(self, num_classes: int, in_channels: int = 1, features: list[str] | None = None) -> None:
        vit = VisionTransformer(8, 4, 6, 1, 8, 8, num_classes=num_classes)
        vit.conv_proj.__init__(1, 8, 4, 4)
        super().__init__(vit, features, example=torch.zeros(1, 1, 8, 8))
"""


@pytest.mark.parametrize(
    ("name", "count"), [("sp", 4), ("ft", 4), ("at", 4), ("nst", 4), ("vid", 4), ("fitnet", 4), ("reviewkd", 4)]
)
def test_a_network_without_maps_is_refused_before_it_is_trained_with_what_gives_some(
    tiny_config: Config, plugin: Callable[[str, str], Path], tmp_path: Path, name: str, count: int
) -> None:
    plugin("small_vit", VIT)
    student = {"name": "resnet8", "widths": [2, 2, 4, 4]}
    changes = {"plugins": ["small_vit"], "objective": {name: name}, "student": student, "builder": "knn"}
    with pytest.raises(UserError, match=f"objective.{name}: '{name}' needs .* but the teacher's .* shows 0") as caught:
        run(parse(tiny_config({**changes, "teacher": {"name": "small_vit"}})))
    assert not (tmp_path / "results").exists()
    features = re.findall(r"teacher\.features=\[(.*)\]", str(caught.value))[0].split(",")
    assert len(features) == count
    assert features[-1] == "encoder.layers.encoder_layer_5"
    spec = parse(tiny_config({**changes, "teacher": {"name": "small_vit", "features": features}}))
    assert spec.teacher is not None
    dataset = spec.data.build()
    spec.build(dataset)


@pytest.mark.parametrize("name", ["ab", "reviewkd"])
def test_a_teacher_without_preactivations_is_refused_before_it_is_trained(
    tiny_config: Config, tmp_path: Path, name: str
) -> None:
    changes = {"objective": {name: name}, "teacher": {"name": "torchvision/shufflenet_v2_x0_5"}}
    with pytest.raises(UserError, match=f"objective.{name}: '{name}' needs pre-activations, but the teacher's network"):
        run(parse(tiny_config(changes)))
    assert not (tmp_path / "results").exists()


def test_a_teacher_of_other_processes_is_not_trained_before_a_student_that_cannot_be(
    tiny_config: Config, tmp_path: Path
) -> None:
    changes = {"objective": {"fsp": "fsp"}, "teacher": {"name": "resnet8"}, "trainer.devices": 2}
    with pytest.raises(UserError, match="'fsp'"):
        run(parse(tiny_config({**changes, "teacher_trainer.devices": 1})), worker="none")
    assert not (tmp_path / "results").exists()


class Heard(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_what_will_teach_nothing_is_said_once_and_first(tiny_config: Config) -> None:
    heard = Heard()
    run(parse(tiny_config({"trainer.batch_size": 6})), heard)
    assert "objective.hkd" in heard.notes[0]
    assert "no holistic term" in heard.notes[0]
    assert sum("no holistic term" in note for note in heard.notes) == 1


def test_a_file_in_its_place_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        run(parse(tiny_config({**ALONE, "run_dir": str(tmp_path / "file")})))
    for changes in ({"results": str(tmp_path / "file")}, {"run_dir": str(tmp_path / "file" / "below")}):
        with pytest.raises(UserError, match="cannot be made"):
            run(parse(tiny_config({**ALONE, **changes})))
    assert (tmp_path / "file").read_text() == "x"


def test_a_place_that_cannot_be_written_in_is_named_before_a_teacher_is_trained(
    tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="/proc/nowhere cannot be made"):
        run(parse(tiny_config({"run_dir": "/proc/nowhere/run"})))
    assert not (tmp_path / "results").exists()


def test_the_first_file_of_a_run_that_died_is_no_foreign_thing(tiny_config: Config, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / ".record.json.123-abcd.tmp").write_text("{")
    assert run(parse(tiny_config({**ALONE, "run_dir": str(place)}))).record.status == "done"


def test_what_a_forced_run_left_when_it_died_is_no_obstacle(tiny_config: Config) -> None:
    first = run(parse(tiny_config(ALONE)))
    for name in (".seed-0.old", ".seed-0.rerun"):
        (first.folder.parent / name).mkdir()
        (first.folder.parent / name / "config.yaml").write_text("half")
    again = run(parse(tiny_config({**ALONE, "force": True})))
    assert {path.name for path in again.folder.iterdir()} == FILES
    assert [path.name for path in again.folder.parent.iterdir() if path.is_dir()] == ["seed-0"]


@pytest.mark.parametrize("force", [False, True])
def test_a_broken_record_is_named_with_what_to_do(force: bool, tiny_config: Config) -> None:
    spec = parse(tiny_config({**ALONE, "force": force}))
    spec.folder.mkdir(parents=True)
    (spec.folder / "record.json").write_text("{")
    with pytest.raises(UserError, match=f"record.json: not JSON.*; move {re.escape(str(spec.folder))} away"):
        run(spec)
    assert [path.name for path in spec.folder.iterdir()] == ["record.json"]


# The teacher


def test_the_teacher_is_trained_once(tiny_config: Config, tmp_path: Path) -> None:
    first, second = Notes(), Notes()
    run(parse(tiny_config()), first)
    teachers = contents(tmp_path / "results" / "teachers")
    result = run(parse(tiny_config({"seed": 1, "student": "resnet8", "data.train_fraction": 0.05})), second)
    assert contents(tmp_path / "results" / "teachers") == teachers
    assert "training it first (1 epoch)" in first.notes[0]
    assert "% on test" in second.notes[0]
    assert result.record.teacher is not None
    teacher = graphkd.load(next((tmp_path / "results").glob("teachers/*/*/seed-0")))
    assert teacher.record.kind == "teacher"
    assert result.record.teacher.accuracy == teacher.record.metrics.test_top1_last
    assert evaluate(teacher.student, teacher.dataset).top1 == result.record.teacher.accuracy


@pytest.mark.parametrize(("accuracy", "warns"), [(9.0, True), (11.9, True), (12.5, False), (97.0, False)])
def test_a_teacher_that_knows_nothing_is_told(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, accuracy: float, warns: bool
) -> None:
    monkeypatch.setattr("graphkd.run.weights._from_run", lambda *_: Teacher("a" * 64, accuracy))
    notes = Notes()
    run(parse(tiny_config()), notes)
    assert notes.notes == warns * [
        f"teacher: right on {accuracy:.2f} % of the test images, where guessing among 10 classes gives 10.00 %: its "
        "students will learn little from it"
    ]


def test_a_run_without_need_of_a_teacher_trains_none(tiny_config: Config, tmp_path: Path) -> None:
    result = run(parse(tiny_config(ALONE)))
    assert result.record.teacher is None
    assert result.record.pair == "resnet8->resnet8"
    assert not (tmp_path / "results" / "teachers").exists()


def test_a_teacher_may_come_from_a_file(tiny_config: Config, tmp_path: Path) -> None:
    trained = run(parse_teacher(tiny_config()))
    weights = trained.folder / "teacher.safetensors"
    state = {"model": safetensors.torch.load_file(weights), "epoch": 240}
    torch.save(state, tmp_path / "ckpt_epoch_240.pth")
    original = run(parse(tiny_config()))
    notes = Notes()
    other_place = {"results": str(tmp_path / "elsewhere"), "teacher.checkpoint": str(tmp_path / "ckpt_epoch_240.pth")}
    result = run(parse(tiny_config(other_place)), notes)
    assert not (tmp_path / "elsewhere" / "teachers").exists()
    assert "ckpt_epoch_240.pth" in notes.notes[0]
    assert result.record.metrics == original.record.metrics
    assert result.record.teacher is not None
    assert result.record.teacher.accuracy == trained.record.metrics.test_top1_last


def test_a_file_of_another_network_is_refused_before_anything_is_written(tiny_config: Config, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not this network's"):
        run(parse(tiny_config({"teacher.checkpoint": str(tmp_path / "other.pth"), "run_dir": str(tmp_path / "out")})))
    assert not (tmp_path / "out").exists()


def test_a_teacher_can_be_trained_alone_once(tiny_config: Config) -> None:
    first = run(parse_teacher(tiny_config()))
    again = run(parse_teacher(tiny_config({"seed": 8})))
    forced = run(parse_teacher(tiny_config({"force": True})))
    assert (first.reused, again.reused, forced.reused) == (False, True, False)
    assert first.folder == again.folder == forced.folder
    assert (first.record.kind, first.record.seed, first.record.teacher) == ("teacher", 0, None)


def test_a_teacher_from_a_file_is_not_to_be_trained(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(b"")
    config = tiny_config({"teacher.checkpoint": str(tmp_path / "t.pth")})
    with pytest.raises(UserError, match="no teacher to train"):
        run(parse_teacher(config))


def test_force_does_not_train_the_teacher_again(tiny_config: Config, tmp_path: Path) -> None:
    run(parse(tiny_config()))
    teachers = contents(tmp_path / "results" / "teachers")
    run(parse(tiny_config({"force": True})))
    assert contents(tmp_path / "results" / "teachers") == teachers


@pytest.mark.slow
def test_two_processes_at_once_train_one_teacher(tiny_words: list[str], tmp_path: Path) -> None:
    words, printed = ["run", *tiny_words, "teacher_trainer.epochs=20"], [tmp_path / "first", tmp_path / "second"]
    processes = [
        forked.start(forked.command, [[*words, f"seed={seed}"]], tmp_path, path, path)
        for seed, path in enumerate(printed)
    ]
    assert [forked.wait(process) for process in processes] == [0, 0]
    assert sum("teacher resnet8 seed 0: epoch 20/20" in path.read_text() for path in printed) == 1
    assert len(list((tmp_path / "results").glob("adhoc/*/*/seed-*/student.safetensors"))) == 2


# A finished run brought back


def test_load_brings_a_finished_run_back(tiny_config: Config) -> None:
    result = run(parse(tiny_config()))
    finished = graphkd.load(result.folder)
    assert finished.record == result.record
    assert finished.config["objective"] == tiny_config()["objective"]
    assert not finished.student.training
    found = evaluate(finished.student, finished.dataset)
    assert found.top1 == result.record.metrics.test_top1_last
    assert found.nll == pytest.approx(result.record.metrics.test_nll_last)


def test_a_teacher_from_a_file_is_tested_like_the_student(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "t.pth"
    torch.save(parse_teacher(tiny_config()).network(DATASETS.build("digits")).state_dict(), weights)
    asked: list[dict[str, Any]] = []

    def spied(*arguments: Any, **options: Any) -> Evaluation:
        asked.append(options)
        return evaluate(*arguments, **options)

    monkeypatch.setattr("graphkd.run.weights.evaluate", spied)
    run(parse(tiny_config({"teacher.checkpoint": str(weights), "trainer.eval_batch_size": 77})))
    assert asked == [{"batch_size": 77, "device": torch.device("cpu")}]


def test_a_teacher_without_weights_says_what_to_do(tiny_config: Config) -> None:
    teacher = run(parse_teacher(tiny_config()))
    (teacher.folder / "teacher.safetensors").unlink()
    with pytest.raises(UserError, match=r"teacher.safetensors.*; train it again: graphkd teacher .* force=true"):
        run(parse(tiny_config()))


def test_the_record_counts_the_views_of_the_built_objective(tiny_config: Config) -> None:
    objective = {"ce": {"name": "ce", "views": ["weak", "strong"]}}
    protocol = run(parse(tiny_config({"objective": objective, "trainer.epochs": 1}))).record.protocol
    assert protocol is not None
    assert (protocol.views, "strong view" in protocol.augmentation) == (2, True)


def test_load_needs_neither_the_teachers_file_nor_the_objective(tiny_config: Config, tmp_path: Path) -> None:
    trained = run(parse_teacher(tiny_config()))
    weights = trained.folder / "teacher.safetensors"
    result = run(parse(tiny_config({"teacher.checkpoint": str(weights)})))
    weights.unlink()
    assert graphkd.load(str(result.folder)).record == result.record


def test_loading_does_not_download_pretrained_weights(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    student = {"name": "torchvision/shufflenet_v2_x0_5"}
    result = run(parse(tiny_config({**ALONE, "student": student})))
    path = result.folder / "config.yaml"
    path.write_text(path.read_text().replace("  name: torchvision/", "  weights: DEFAULT\n  name: torchvision/"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it downloads")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    finished = graphkd.load(result.folder)
    assert finished.config["student"]["weights"] == "DEFAULT"
    assert finished.record == result.record


def test_load_brings_a_teacher_back_whatever_run_asked_for_it(tiny_config: Config) -> None:
    config = tiny_config(ALONE)
    result = run(parse_teacher(config))
    finished = graphkd.load(result.folder)
    network = parse_teacher(config).network(finished.dataset)
    load_weights(network, result.folder / "teacher.safetensors")
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in finished.student.state_dict().items())


def test_load_names_what_is_no_finished_run(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        graphkd.load(tmp_path)
    result = run(parse(tiny_config(ALONE)))
    (result.folder / "config.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="holds no mapping"):
        graphkd.load(result.folder)
    (result.folder / "config.yaml").write_text("seed: [0\n")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        graphkd.load(result.folder)
    os.truncate(result.folder / "config.yaml", 1 << 40)
    with pytest.raises(UserError, match="larger than 4 MiB"):
        graphkd.load(result.folder)
    (result.folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        graphkd.load(result.folder)


def test_the_trainer_of_a_plan_is_that_of_the_config(tiny_config: Config) -> None:
    trainer = parse(tiny_config({"trainer.epochs": 7, "trainer.decay_at": [0.5]})).trainer
    assert isinstance(trainer, Trainer)
    assert (trainer.epochs, trainer.decay_epochs, trainer.threads) == (7, [4], 1)


# Links


@pytest.mark.parametrize("kind", ["a folder", "nothing yet", "a link"])
def test_a_link_for_a_folder_is_followed(tiny_config: Config, tmp_path: Path, kind: str) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True) if kind == "a folder" else real.parent.mkdir()
    (tmp_path / "other").symlink_to(real)
    link.symlink_to(tmp_path / "other" if kind == "a link" else real)
    config = tiny_config({**ALONE, "run_dir": str(link)})
    run(parse(config))
    for _ in range(2):
        assert not run(parse({**config, "force": True})).reused
        assert run(parse(config)).reused
        assert run(parse({**config, "run_dir": str(real)})).reused
    assert link.is_symlink()
    assert {path.name for path in real.parent.iterdir()} <= {"real", ".real.lock"}
    assert load(link).record.status == "done"


def test_a_link_to_itself_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="a cannot be resolved: a symbolic link points back to itself"):
        run(parse(tiny_config({**ALONE, "run_dir": str(tmp_path / "a")})))
    with pytest.raises(UserError, match="a symbolic link points back to itself"):
        run(parse(tiny_config({**ALONE, "results": str(tmp_path / "a")})))


# What is refused late


def test_a_teachers_file_that_does_not_fit_leaves_no_folder(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"bad\.pth"):
        run(parse(tiny_config({"teacher.checkpoint": str(tmp_path / "bad.pth")})))
    assert not (tmp_path / "results").exists()


def spoil(path: Path) -> None:
    """Makes one weight of a file NaN, checksum and all."""
    network = MODELS.build("resnet8", num_classes=10, in_channels=1, widths=(2, 2, 4, 4))
    load_weights(network, path)
    next(network.parameters()).data.view(-1)[0] = math.nan
    save_weights(network, path)


def test_a_spoilt_teacher_is_refused_with_what_to_do(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config()
    teacher = run(parse_teacher(config)).folder
    spoil(teacher / "teacher.safetensors")
    with pytest.raises(UserError, match=rf"the teacher in {teacher} has weights .* not finite; .*force=true"):
        run(parse(config))
    assert not (tmp_path / "results" / "adhoc").exists()
    with pytest.raises(UserError, match=r"teacher\.checkpoint: .*not finite"):
        run(parse(tiny_config({"teacher.checkpoint": str(teacher / "teacher.safetensors")})))
    again = {**config, "force": True}
    run(parse_teacher(again))
    assert not run(parse(config)).reused


def test_a_run_that_spoils_its_weights_has_failed(tiny_config: Config) -> None:
    config = tiny_config({**ALONE, "trainer.lr": 1e30, "trainer.non_finite": "skip"})
    with pytest.raises(RuntimeError, match="not finite"):
        run(parse(config))
    record = records.read(parse(config).folder / "record.json")
    assert record.status == "failed"
    assert "not finite" in str(record.error)
    assert not (parse(config).folder / "student.safetensors").exists()


# Plug-ins, and runs that are not used again

NETWORK = """
from graphkd import MODELS
from graphkd.model.resnet import CifarResNet

@MODELS.register("mine")
class Mine(CifarResNet):
    "A plug-in network."

    def __init__(self, num_classes, in_channels=3):
        super().__init__(num_classes, 8, (2, 2, 4, 4), in_channels)
"""


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be editing graphkd."""
    monkeypatch.setattr("graphkd.run.part.uncommitted", lambda root: frozenset())


@pytest.mark.usefixtures("committed")
def test_a_plug_in_that_changed_is_told_where_its_run_is_used_again(
    tiny_config: Config, plugin: Callable[[str, str], Path]
) -> None:
    file = plugin("mine", NETWORK)
    config = tiny_config({**ALONE, "plugins": ["mine"], "student": "mine"})
    first = run(parse(config))
    assert first.record.code.plugins == {"mine": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert run(parse(config)).changed == ()
    assert run(parse(tiny_config(ALONE))).record.code.plugins == {}
    file.write_text(file.read_text() + "# changed\n")
    again = run(parse(config))
    assert (again.reused, again.changed) == (True, ("mine",))
    forced = run(parse({**config, "force": True}))
    assert forced.record.code.plugins != first.record.code.plugins
    assert run(parse(config)).changed == ()


def test_an_interrupted_run_of_a_plug_in_that_changed_starts_over(
    tiny_config: Config, plugin: Callable[[str, str], Path]
) -> None:
    file = plugin("mine", NETWORK)
    often = {"trainer.checkpoint_every": "1 steps", "trainer.epochs": 2}
    spec = parse(tiny_config({**ALONE, **often, "plugins": ["mine"], "student": "mine"}))

    class Stop(Callback):
        left = 3

        def step(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, Stop())
    assert list(spec.folder.glob("checkpoint-*.pt"))
    file.write_text(file.read_text() + "# changed\n")
    notes = Notes()
    run(spec, notes)
    assert "plug-in mine has changed since the run was interrupted; starting over" in notes.notes
    fresh = run(dataclasses.replace(spec, config={**spec.config, "run_dir": str(spec.folder.parent / "fresh")}))
    name = "student.safetensors"
    assert (spec.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


class Interrupted(Callback):
    """Stops the training in its second step."""

    steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == 2:
            raise KeyboardInterrupt


def test_a_rerun_does_not_resume_from_another_runs_checkpoint(tiny_config: Config, tmp_path: Path) -> None:
    def spec(lr: float, force: bool) -> StudentSpec:
        changes = {**ALONE, "trainer.lr": lr, "trainer.epochs": 2, "trainer.checkpoint_every": "1 steps"}
        return parse(tiny_config({**changes, "run_dir": str(tmp_path / "out"), "force": force}))

    run(spec(0.1, force=False))
    with pytest.raises(KeyboardInterrupt):
        run(spec(0.1, force=True), Interrupted())
    assert list((tmp_path / ".out.rerun").glob("checkpoint-*.pt"))
    shutil.rmtree(tmp_path / "out")
    first = run(spec(0.2, force=False))
    weights = (first.folder / "student.safetensors").read_bytes()
    again = run(spec(0.2, force=True))
    assert (again.folder / "student.safetensors").read_bytes() == weights


def test_a_hint_at_the_newest_run_names_no_working_folder(tiny_config: Config, tmp_path: Path) -> None:
    result = run(parse(tiny_config(ALONE)))
    hidden = result.folder.with_name(".seed-0.rerun")
    hidden.mkdir()
    (hidden / "record.json").write_text("{}")
    with pytest.raises(UserError, match=re.escape(f"; the newest below it is {result.folder}") + "$"):
        graphkd.load(tmp_path / "results")


@pytest.mark.usefixtures("committed")
def test_a_teachers_plug_in_that_changed_is_told(tiny_config: Config, plugin: Callable[[str, str], Path]) -> None:
    file = plugin("mine", NETWORK)
    changes = {"plugins": ["mine"], "teacher": "mine", "objective": {"kd": "kd"}}
    first = run(parse(tiny_config(changes)))
    assert first.record.code.plugins.keys() == {"mine"}
    file.write_text(file.read_text() + "# changed\n")
    assert run(parse(tiny_config(changes))).changed == ("mine",)
    notes = Notes()
    run(parse(tiny_config({**changes, "seed": 1})), notes)
    assert "teacher: plug-in mine has changed since (graphkd teacher force=true trains it again)" in notes.notes
    assert run(parse_teacher(tiny_config(changes))).changed == ("mine",)


def test_it_is_told_why_a_run_of_the_same_config_is_not_used_again(tiny_config: Config, tmp_path: Path) -> None:
    weights = tmp_path / "start.pth"
    network = MODELS.build("resnet8", num_classes=10, in_channels=1, widths=(2, 2, 4, 4))
    torch.save(network.state_dict(), weights)
    config = tiny_config({**ALONE, "student.checkpoint": str(weights)})
    first, listener = run(parse(config)), Notes()
    run(parse({**config, "seed": 1}), listener)
    other = {**config, "trainer": {**config["trainer"], "lr": 0.01}, "variant": first.record.variant}
    run(parse(other), listener)
    assert not any("not reused" in note for note in listener.notes), "another seed or config needs no reason"
    torch.save({"model": network.state_dict()}, weights)
    second = run(parse(config), listener)
    assert not second.reused
    assert [note for note in listener.notes if "not reused" in note] == [
        f"{first.folder} has the same config, but is not reused: the contents of its files differ, or graphkd "
        f"{first.record.code.version}, which made it, identified runs in another way (see CHANGELOG)"
    ]


def test_a_run_that_an_older_graphkd_told_apart_otherwise_is_named(tiny_config: Config) -> None:
    config = tiny_config()
    first = run(parse(config))
    teacher = next(first.folder.parents[3].glob("teachers/*/*/seed-0"))
    for folder in (first.folder, teacher):
        record = dataclasses.replace(records.read(folder / "record.json"), identity="0" * 64)
        records.write(record, folder / "record.json")
        folder.parent.rename(folder.parent.with_name("0" * 12))
    notes = Notes()
    assert not run(parse(config), notes).reused
    told = [note for note in notes.notes if "not reused" in note]
    assert [note.partition(" has")[0] for note in told] == [
        str(first.folder.parent.with_name("0" * 12) / "seed-0"), str(teacher.parent.with_name("0" * 12) / "seed-0")
    ]  # fmt: skip


# Where networks start from


def test_a_student_may_start_from_a_file_or_another_run(tiny_config: Config, tmp_path: Path) -> None:
    donor = run(parse(tiny_config({**ALONE, "trainer.epochs": 3})))
    state = graphkd.load(donor.folder).student.state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, tmp_path / "lightning.ckpt")
    frozen = {**ALONE, "trainer.lr": 1e-30, "trainer.momentum": 0.0, "trainer.weight_decay": 0.0}
    for place in (donor.folder, tmp_path / "lightning.ckpt"):
        notes = Notes()
        result = run(parse(tiny_config({**frozen, "student.checkpoint": str(place)})), notes)
        loaded = graphkd.load(result.folder)
        parameters = dict(loaded.student.named_parameters())
        assert all(torch.equal(parameters[name], state[name]) for name in parameters), "it starts where the file ends"
        assert notes.notes[-1].startswith("student: resnet8 starts from ")
        assert any("the prefix 'model.'" in note for note in notes.notes) == (place.suffix == ".ckpt")
        assert loaded.config["student"]["checkpoint"] == str(place)
    (tmp_path / "lightning.ckpt").unlink()
    graphkd.load(result.folder)  # needs the file no more


def test_a_start_of_other_classes_is_refused_before_anything_is_written(tiny_config: Config, tmp_path: Path) -> None:
    network = MODELS.build("resnet8", num_classes=7, in_channels=1, widths=(2, 2, 4, 4))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    for side, objective, fix in (
        ("student", "ce", r"; student\.drop_head=true starts with a new head$"),
        (
            "teacher",
            "kd",
            r"; a teacher needs the data's classes: train one by `graphkd run .* student\.drop_head=true",
        ),
    ):
        spec = parse(tiny_config({f"{side}.checkpoint": str(tmp_path / "w.pth"), "objective": {"a": objective}}))
        with pytest.raises(UserError, match=f"are for 7 classes, not 10.*{fix}"):
            run(spec)
    torch.save(MODELS.build("resnet14", num_classes=10, in_channels=1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="not this network's") as refused:
        run(parse(tiny_config({**ALONE, "student.checkpoint": str(tmp_path / "w.pth")})))
    assert "drop_head" not in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_a_start_of_other_classes_may_drop_its_head(tiny_config: Config, tmp_path: Path) -> None:
    network = MODELS.build("resnet8", num_classes=7, in_channels=1, widths=(2, 2, 4, 4))
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "w.pth")
    frozen = {**ALONE, "trainer.lr": 1e-30, "trainer.momentum": 0.0, "trainer.weight_decay": 0.0}
    start = {"student.checkpoint": str(tmp_path / "w.pth"), "student.drop_head": True}
    notes = Notes()
    result = run(parse(tiny_config({**frozen, **start})), notes)
    found = dict(graphkd.load(result.folder).student.named_parameters())
    fresh = dict(graphkd.load(run(parse(tiny_config(frozen))).folder).student.named_parameters())
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], fresh[name] if name.startswith("fc.") else value)
    assert (
        f"{tmp_path / 'w.pth'}: the head starts anew (fc.weight, fc.bias); 2 tensors of the file are left out "
        "(fc.weight, fc.bias)"
    ) in notes.notes


def test_a_checkpoint_is_a_file_or_a_finished_run(tiny_config: Config, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.pth"
    with sparse.open("wb") as file:
        file.truncate(1 << 42)
    for side in ("student", "teacher"):
        for place, message in (
            (tmp_path / "gone.pth", "there is no file"),
            (tmp_path, "holds no run"),
        ):
            with pytest.raises(UserError, match=f"^{side}.checkpoint: .*{message}"):
                parse(tiny_config({f"{side}.checkpoint": str(place)}))
        with pytest.raises(UserError, match=r"sparse\.pth is refused: its 4194304 MiB"):
            run(parse(tiny_config({f"{side}.checkpoint": str(sparse)})))
    result = run(parse(tiny_config(ALONE)))
    records.write(dataclasses.replace(result.record, status="running"), result.folder / "record.json")
    with pytest.raises(UserError, match=r"student.checkpoint: the run in .* is not finished"):
        parse(tiny_config({"student.checkpoint": str(result.folder)}))


def test_a_trained_teachers_folder_is_a_checkpoint(tiny_config: Config) -> None:
    trained = run(parse_teacher(tiny_config()))
    original, found = run(parse(tiny_config())), run(parse(tiny_config({"teacher.checkpoint": str(trained.folder)})))
    assert found.record.metrics == original.record.metrics
    assert found.record.identity != original.record.identity


def test_a_teacher_may_take_images_of_its_own(tiny_config: Config) -> None:
    own = {"size": 16, "mean": [0.5], "std": [0.25]}
    config = tiny_config({"teacher": {**tiny_config()["teacher"], "input": own}, "objective": {"at": "at"}})
    result = run(parse(config))
    (folder,) = Path(config["results"]).glob("teachers/*/*/seed-0")
    teacher = graphkd.load(folder)
    (batch,) = teacher.dataset.eval_batches("test", 999, "cpu")
    assert teacher.student(batch.images).features[0].shape[2] == 16
    assert result.record.teacher is not None
    assert result.record.teacher.accuracy == evaluate(teacher.student, teacher.dataset).top1
    for wrong, message in (
        ({"sise": 16}, "did you mean 'size'"),
        ({"size": 0}, "teacher.input.size is 0"),
        ({"mean": [0.5, 0.5]}, "teacher.input has 2 means"),
        ({"std": [0.0]}, "above 0"),
    ):
        with pytest.raises(UserError, match=message):
            run(parse(tiny_config({"teacher.input": wrong, "objective": {"kd": "kd"}})))
