from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Command, OwnConfigs, Plugin, students, top

MINE = """
from graphkd import BUILDERS
from graphkd.builder.knn import KNN

@BUILDERS.register("mine")
class Mine(KNN):
    "The user's own."
"""
FAILING = """
from graphkd import OBJECTIVES
from graphkd.objective.ce import CrossEntropy

@OBJECTIVES.register("failing")
class Failing(CrossEntropy):
    "Fails at the first step of a network with four channels."

    def forward(self, batch):
        if batch.student.features[0].shape[1] == 4:
            raise RuntimeError("four is too many")
        return super().forward(batch)
"""


# One run


def test_trains_the_teacher_then_the_student_and_ends_with_a_table(
    command: Command, folder: Path, tiny_words: list[str]
) -> None:
    code, out, err = command("run", *tiny_words, "builder=knn", "gnn=gat")
    assert (code, err) == (0, "")
    (place,) = students(folder)
    lines = out.splitlines()
    assert "training it first" in lines[0]
    assert lines[1].startswith("teacher resnet8 seed 0: epoch 1/1 train ")
    assert lines[2].startswith("teacher: right on 11.14 % of the test images, where guessing among 10 classes gives")
    assert lines[3].startswith("student ce+kd+hkd-knn-gat seed 0: epoch 1/1 train ")
    assert lines[4] == "ce+kd+hkd-knn-gat, seed 0 (resnet8->resnet8)"
    assert "test top-1, last epoch (%)" in out
    assert str(place.relative_to(folder)) in out
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"teachers", "adhoc"}


def test_without_a_terminal_there_are_plain_lines(command: Command, folder: Path, tiny_words: list[str]) -> None:
    out = command("run", *tiny_words, "objective=ce", "trainer.epochs=30").out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "epoch 30/30" in out
    assert len(out.splitlines()) < 25, "a line now and then, not one an epoch"


def test_a_finished_run_says_so(command: Command, folder: Path, tiny_words: list[str]) -> None:
    words = ["run", *tiny_words, "objective=ce"]
    first = command(*words).out
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, again, _ = command(*words)
    assert code == 0
    assert again.splitlines()[0] == "This run is already finished (force=true runs it again)."
    assert again.splitlines()[1:] == first.splitlines()[1:], "the same table"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert "already finished" not in command(*words, "force=true").out


def test_records_what_was_varied(command: Command, folder: Path, tiny_words: list[str]) -> None:
    words = ["objective=ce", "seed=3", "variant=mine", "results=out", "objective.ce.label_smoothing=0.1"]
    assert command("run", *tiny_words[:2], tiny_words[3], *words).code == 0
    (record,) = students(folder / "out").values()
    assert record.varied == {
        "trainer.epochs": "1",
        "trainer.threads": "1",
        "student": "{name: resnet8, widths: [2, 2, 4, 4]}",
        "objective": "ce",
        "objective.ce.label_smoothing": "0.1",
    }
    assert (record.variant, record.seed) == ("mine", 3)


def test_ones_own_configs_and_parts_serve_in_any_order(
    command: Command,
    folder: Path,
    tiny_words: list[str],
    plugin: Plugin,
    own_configs: OwnConfigs,
) -> None:
    plugin("mine_from_outside", MINE)
    own = str(own_configs({"builder/mine.yaml": "name: mine\nk: 3\nmetric: cosine\n"}))
    words = ["builder=mine", "plugins=[mine_from_outside]", *tiny_words]
    first = command("run", "--config-dir", own, *words)
    again = command("run", *words[:1], "--config-dir", own, *words[1:])
    assert (first.code, again.code) == (0, 0)
    assert "already finished" in again.out
    (record,) = students(folder).values()
    assert record.variant == "ce+kd+hkd-mine-tag"


def test_a_config_folder_may_be_given_relative_to_where_one_is(
    command: Command, folder: Path, tiny_words: list[str]
) -> None:
    (folder / "conf" / "term").mkdir(parents=True)
    (folder / "conf" / "term" / "ce.yaml").write_text("name: ce\nweight: 0.5\nlabel_smoothing: 0.0\n")
    shown = command("run", "-cd", "conf", "objective=ce", "--cfg", "job")
    assert yaml.safe_load(shown.out)["objective"]["ce"]["weight"] == 0.5


# Showing the config


def test_cfg_job_prints_what_would_run_and_does_nothing(command: Command, folder: Path, tiny_words: list[str]) -> None:
    code, out, _ = command("run", *tiny_words, "gnn=gat", "gnn.heads=2", "--cfg", "job")
    assert code == 0
    shown = yaml.safe_load(out)
    assert shown["gnn"] == {"name": "gat", "heads": 2, "layers": 1, "engine": "auto"}
    assert shown["objective"]["hkd"]["negatives"] == shown["negatives"]
    assert "hydra" not in shown
    assert top(folder) == set()
    command("run", *tiny_words, "gnn=gat", "gnn.heads=2")
    (place,) = students(folder)
    ran = yaml.safe_load((place / "config.yaml").read_text())
    del ran["varied"]
    assert ran == {**shown, "results": str(folder / "results")}


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "all"],
        ["--cfg", "hydra"],
        ["--cfg", "job", "--package", "objective.hkd"],
        ["--cfg", "job", "--resolve", "-p", "gnn"],
        ["--info", "defaults"],
        ["--info", "searchpath"],
        ["--hydra-help"],
        ["--help"],
    ],
)
def test_what_hydra_shows_leaves_nothing(command: Command, folder: Path, words: list[str]) -> None:
    code, out, err = command("run", *words)
    assert (code, err) == (0, "")
    assert out.strip()
    assert top(folder) == set()


# Sweeps


def test_a_sweep_runs_every_combination(command: Command, folder: Path, tiny_words: list[str]) -> None:
    code, out, err = command("run", "-m", "gnn=tag,none", "seed=0,1", *tiny_words)
    assert (code, err) == (0, "")
    found = {(record.variant, record.seed) for record in students(folder).values()}
    assert found == {(f"ce+kd+hkd-knn-{gnn}", seed) for gnn in ("tag", "none") for seed in (0, 1)}
    assert out.splitlines()[0] == "4 runs: 2 groups of 2 that train together, in 1 process of 1 thread"
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("ce")] == [
        f"ce+kd+hkd-knn-{gnn} seed {seed}" for seed in (0, 1) for gnn in ("tag", "none")
    ]
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"teachers", "adhoc"}
    assert command("run", "-m", "gnn=tag,none", "seed=0,1", *tiny_words).out.count("(already finished)") == 4


def test_lines_of_a_sweep_tell_its_runs_apart(command: Command, folder: Path, tiny_words: list[str]) -> None:
    """Their names have the parts of graphs, but no options."""
    out = command("run", "-m", "objective.kd.weight=0.5,1", "builder.k=4,6", "seed=0", *tiny_words).out
    assert [line.split(" seed")[0] for line in out.splitlines() if ": test " in line and "teacher" not in line] == [
        f"builder.k={k}, objective.kd.weight={weight}: ce+kd+hkd-knn-tag" for weight in ("0.5", "1") for k in (4, 6)
    ]
    assert out.splitlines()[-2] == "their table: graphkd report results --study adhoc"


def test_a_mapping_replaces_a_part_in_a_sweep_too(command: Command, folder: Path, tiny_words: list[str]) -> None:
    swept = "student={name: resnet8, widths: [2, 2, 2, 2]},{name: resnet14, widths: [2, 2, 2, 2]}"
    fixed = "data={name: digits, train_fraction: 0.05}"
    assert command("run", "-m", "objective=ce", swept, fixed, *tiny_words[:3]).code == 0
    configs = [yaml.safe_load((place / "config.yaml").read_text()) for place in students(folder)]
    assert sorted(config["student"]["name"] for config in configs) == ["resnet14", "resnet8"]
    assert all(config["student"].keys() == {"name", "widths"} for config in configs)
    assert all(config["data"] == {"name": "digits", "train_fraction": 0.05} for config in configs)


def test_a_run_is_the_same_whether_swept_or_not(command: Command, folder: Path, tiny_words: list[str]) -> None:
    command("run", "objective=ce", *tiny_words)
    assert "(already finished)" in command("run", "-m", "objective=ce", *tiny_words).out


def test_every_combination_is_checked_before_the_first_runs(
    command: Command, folder: Path, tiny_words: list[str]
) -> None:
    code, _, err = command("run", "-m", "trainer.lr=0.1,0", *tiny_words)
    assert code == 2
    assert "lr is 0" in err
    assert top(folder) == set()


@pytest.mark.parametrize(
    ("sweep", "said"), [("data.padding=1,9", "padding is 9"), ("objective=ce,fsp", "same channels")]
)
def test_data_and_parts_of_every_combination_are_checked_before_the_first_runs(
    sweep: str, said: str, command: Command, folder: Path, tiny_words: list[str]
) -> None:
    code, out, err = command("run", "-m", sweep, *(word for word in tiny_words if not word.startswith("student=")))
    assert (code, len(err.splitlines()), out) == (2, 1, "")
    key, _, values = sweep.partition("=")
    assert f"{key}={values.split(',')[1]}" in err
    assert said in err
    assert top(folder) == set()


def test_runs_of_a_sweep_cannot_share_a_folder(command: Command, folder: Path, tiny_words: list[str]) -> None:
    code, _, err = command("run", "-m", "run_dir=here", "seed=0,1", *tiny_words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "here" in err
    assert top(folder) == set()
    assert command("run", "-m", "run_dir=a,b", "seed=0", "objective=ce", *tiny_words).code == 0
    assert set(students(folder)) == {folder / "a", folder / "b"}


def test_a_failing_job_of_a_sweep_does_not_keep_the_others_from_running(
    command: Command, folder: Path, tiny_words: list[str], plugin: Plugin
) -> None:
    plugin("failing_plugin", FAILING)
    networks = ",".join(f"{{name: resnet8, widths: [{width}, 2, 2, 2]}}" for width in (2, 4, 8))
    words = ["plugins=[failing_plugin]", "objective={failing: {name: failing}}", f"student={networks}", *tiny_words[:3]]
    code, out, err = command("run", "-m", *words)
    assert code == 1
    assert err == ""
    assert out.splitlines()[-2] == "2 of 3 runs are finished."
    failed = out.splitlines()[-1]
    assert failed.startswith("failed: ")
    assert failed.endswith(": RuntimeError: four is too many")
    assert "student={name:resnet8,widths:[4,2,2,2]}" in failed
    assert sorted(record.status for record in students(folder).values()) == ["done", "done", "failed"]
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"adhoc"}


def test_an_interrupted_sweep_leaves_nothing_of_hydra(
    command: Command, folder: Path, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphkd.run.run_together", interrupt)
    assert command("run", "-m", "objective=ce", "seed=0,1", *tiny_words).code == 130
    assert top(folder) == set()


@pytest.mark.parametrize("way", [["--jobs", "2"], ["--group", "2"], ["--alone"]])
def test_ways_to_run_several_at_once_are_not_for_a_search(command: Command, way: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, _, error = command("run", "-m", "hydra/sweeper=optuna", "trainer.lr=interval(0.001,0.2)", *way)
    assert code == 2
    assert "--jobs, --group and --alone have no effect under a sweeper" in error


@pytest.mark.slow
def test_optuna_searches_for_the_highest_validation_score(
    command: Command, folder: Path, tiny_words: list[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, out, _ = command(
        "run", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1",
        "trainer.lr=interval(0.001,0.2)", "objective=ce", "trainer.epochs=3",
        "data.train_fraction=0.5", *tiny_words[1:4],
    )  # fmt: skip
    assert code == 0
    found = [record.metrics.val_top1_best or 0.0 for record in students(folder).values()]
    assert len(found) == 3
    assert max(found) > min(found)
    for score in found:
        assert f": validation {score:.2f} %; ce seed 0: test" in out
    printed = dict(line.split(": ", 1) for line in out.splitlines() if line.startswith("best_"))
    assert float(printed["best_value"]) == max(found)
    assert "trainer.lr" in printed["best_params"]
    nodes = [yaml.safe_load((place / "config.yaml").read_text())["student"] for place in students(folder)]
    assert all(student == {"name": "resnet8", "widths": [2, 2, 4, 4]} for student in nodes)
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"adhoc"}


def test_a_search_without_validation_scores_is_refused_before_a_training(command: Command, folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, _, error = command(
        "run", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "trainer.lr=interval(0.001,0.2)",
        "data.val_fraction=0",
    )  # fmt: skip
    assert code == 2
    assert "data 'digits' has no validation split here: data.val_fraction=0.1 holds one out" in error
    assert not students(folder)
