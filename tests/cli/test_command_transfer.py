from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from commands import Command, OwnConfigs, students

from graphkd.engine.weights import save_weights
from graphkd.model import Network
from graphkd.report import record as records

NEW = ["data.classes=[5,6,7,8,9]", "probe.epochs=2", "probe.threads=1"]


@pytest.fixture
def run_folder(command: Command, folder: Path, tiny_words: list[str]) -> Path:
    assert command("run", *tiny_words, "objective=ce", "variant=plain").code == 0
    (place,) = students(folder)
    return place


@pytest.fixture
def two_runs(run_folder: Path) -> list[Path]:
    """The same student as seed 0 and as seed 1."""
    other = run_folder.with_name("seed-1")
    shutil.copytree(run_folder, other)
    records.write(dataclasses.replace(records.read(other / "record.json"), seed=1), other / "record.json")
    return [run_folder, other]


def probes(folder: Path) -> dict[Path, records.Record]:
    return {place: record for place, record in students(folder).items() if (place / "probe.safetensors").exists()}


def test_one_run(command: Command, folder: Path, run_folder: Path) -> None:
    answer = command("transfer", str(run_folder), *NEW)
    assert (answer.code, answer.err) == (0, "")
    ((place, record),) = probes(folder).items()
    assert (record.study, record.variant, record.data) == ("adhoc_transfer", "plain", "digits")
    assert f"{record.metrics.test_top1_last:.2f}" in answer.out
    assert str(place.relative_to(folder)) in answer.out
    again = command("transfer", str(run_folder), *NEW)
    assert again.code == 0
    assert again.out.startswith("This probe is already finished.")
    assert probes(folder) == {place: record}


@pytest.mark.parametrize("place", ["results", "results/adhoc"])
def test_every_student_below_a_folder(command: Command, folder: Path, two_runs: list[Path], place: str) -> None:
    answer = command("transfer", place, *NEW, "study=linear", "results=elsewhere")
    assert (answer.code, answer.err) == (0, "")
    found = probes(folder / "elsewhere")
    assert sorted((record.study, record.seed) for record in found.values()) == [("linear", 0), ("linear", 1)]
    lines = answer.out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["plain seed 0", "plain seed 1"]
    assert lines[2].startswith("linear, resnet8->resnet8")
    assert any((folder / "elsewhere" / "tables").glob("linear*.csv"))
    again = command("transfer", place, *NEW, "study=linear", "results=elsewhere")
    assert ["(already finished)" in line for line in again.out.splitlines()[:2]] == [True, True]


def test_a_probe_that_fails_keeps_no_other_from_training(
    command: Command, folder: Path, two_runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [OSError("no space left on device")]

    def save(network: Network, path: Path) -> None:
        if left:
            raise left.pop()
        save_weights(network, path)

    monkeypatch.setattr("graphkd.run.execution.save_weights", save)
    answer = command("transfer", "results", *NEW)
    assert (answer.code, answer.err) == (1, "")
    assert "failed: OSError: no space left on device" in answer.out.splitlines()[0]
    assert [record.status for record in probes(folder).values()] == ["done"]
    assert command("transfer", "results", *NEW).code == 0
    assert len(probes(folder)) == 2


def test_a_student_that_does_not_fit_keeps_no_other_from_being_probed(
    command: Command, folder: Path, two_runs: list[Path]
) -> None:
    (two_runs[0] / "student.safetensors").write_bytes(b"torn")
    answer = command("transfer", "results", *NEW)
    assert (answer.code, answer.err) == (1, "")
    assert "seed-0: failed: " in answer.out.splitlines()[0]
    assert "student.safetensors" in answer.out.splitlines()[0]
    assert [record.seed for record in probes(folder).values()] == [1]
    assert any((folder / "results" / "tables").glob("adhoc_transfer*.csv"))


def test_data_of_a_student_that_are_gone_keep_no_other_from_being_probed(
    command: Command, folder: Path, two_runs: list[Path]
) -> None:
    config = yaml.safe_load((two_runs[0] / "config.yaml").read_text())
    config["data"] = {"name": "folder", "root": str(folder / "gone")}
    (two_runs[0] / "config.yaml").write_text(yaml.safe_dump(config))
    answer = command("transfer", "results", "probe.epochs=1")
    assert (answer.code, answer.err) == (1, "")
    assert "seed-0: failed: " in answer.out.splitlines()[0]
    assert [record.seed for record in probes(folder).values()] == [1]


def test_a_folder_with_one_student_gets_tables(command: Command, folder: Path, run_folder: Path) -> None:
    assert command("transfer", "results", *NEW).code == 0
    assert any((folder / "results" / "tables").glob("adhoc_transfer*.csv"))


def test_variants_stand_in_the_order_of_their_suite(
    command: Command, folder: Path, run_folder: Path, own_configs: OwnConfigs
) -> None:
    own = own_configs({"ablation/mine.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {b: [], a: []}\n"})
    for variant in ("a", "b"):
        other = folder / "results" / "mine" / variant
        shutil.copytree(run_folder, other)
        record = dataclasses.replace(records.read(other / "record.json"), study="mine", variant=variant)
        records.write(record, other / "record.json")
    answer = command("transfer", "results/mine", *NEW, "--config-dir", str(own))
    assert answer.code == 0, answer
    rows = [line.split()[1] for line in answer.out.splitlines() if line.startswith("│")]
    assert rows == ["b", "a"]


WRONG = [
    ([], ["which run"]),
    (["nowhere"], ["nowhere"]),
    (["."], ["no finished student"]),
    (["RUN", "RUN"], ["one run or folder at a time"]),
    (["RUN", "data=digit"], ["'digits'"]),
    (["RUN", "data.clases=[1,2]"], ["'classes'"]),
    (["RUN", "data.classes=[1]"], ["classes"]),
    (["RUN", "probe.epoch=1"], ["'epochs'"]),
    (["RUN", "probe.epochs=0"], ["probe: epochs is 0"]),
    (["RUN", "probe.epochs=many"], ["'epochs'"]),
    (["RUN", "probe.lr=inf"], ["probe: lr is inf"]),
    (["RUN", "probe={lrs: 1}"], ["'lrs'"]),
    (["RUN", "~data"], ["'data'"]),
    (["RUN", "study=a/b"], ["study"]),
    (["RUN", "student=resnet8"], ["student"]),
    (["RUN", "plugins=[there_is_none]"], ["there_is_none"]),
    (["RUN", "--nope"], ["--nope"]),
]


@pytest.mark.parametrize(("words", "culprits"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_mistake_is_told_in_one_line(
    command: Command, folder: Path, words: list[str], culprits: list[str], tiny_run: Path
) -> None:
    answer = command("transfer", *[str(tiny_run) if word == "RUN" else word for word in words])
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert all(culprit in answer.err for culprit in culprits), answer.err
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def tiny_run(tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run outside the folder that the command runs in."""
    from graphkd.run import parse, run
    from graphkd_cli.compose import compose

    results = tmp_path_factory.mktemp("runs")
    return run(parse({**compose([*tiny_words, "objective=ce"]).config, "results": str(results)})).folder
