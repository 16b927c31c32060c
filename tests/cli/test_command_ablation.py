from __future__ import annotations

import csv
import os
import re
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
from commands import Command, OwnConfigs, Plugin, students, top

from graphkd import UserError
from graphkd.data import Dataset
from graphkd.run import RunResult, RunSpec, run_together
from graphkd.run.part import Part
from graphkd_cli import studies
from graphkd_cli.launch import Ways

FAILING = """
from pathlib import Path

from graphkd import OBJECTIVES
from graphkd.objective.ce import CrossEntropy

@OBJECTIVES.register("failing")
class Failing(CrossEntropy):
    "Fails as long as there is a file beside it that says so."

    def forward(self, batch):
        if Path(__file__).with_name("trouble").exists():
            raise RuntimeError("out of luck")
        return super().forward(batch)
"""
PLUGIN = "plugins=[failing_plugin]"


@pytest.fixture(autouse=True)
def _without_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws figures, which takes longer than the trainings, only for tests that ask for `with_figures`."""
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("graphkd_cli.studies.draw_figures", lambda *_: None)


@pytest.fixture
def with_figures() -> None:
    """See above."""


@pytest.fixture
def suite(own_configs: OwnConfigs, tiny_words: list[str]) -> list[str]:
    """The words that run a suite of two variants and two seeds, a table's order not that of the alphabet."""
    own = own_configs(
        {
            "ablation/mini.yaml": "\n".join(
                [
                    "description: what a teacher is good for",
                    "seeds: [0, 1]",
                    f"base: {tiny_words!r}",
                    "variants:",
                    "  taught: [objective=kd]",
                    "  alone: [objective=ce]",
                ]
            )
        }
    )
    return ["mini", "--config-dir", str(own)]


def edit(suite: list[str], old: str, new: str) -> None:
    path = Path(suite[-1]) / "ablation" / "mini.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def runs(folder: Path) -> list[tuple[str, int, str]]:
    return sorted((r.variant, r.seed, r.status) for r in students(folder).values())


def test_a_dry_run_prints_every_run_and_does_nothing(command: Command, folder: Path, suite: list[str]) -> None:
    code, out, err = command("ablation", *suite, "--dry-run", "trainer.lr=0.1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "mini: what a teacher is good for"
    assert lines[1] == "2 variants x 2 seeds = 4 runs"
    assert lines[2].endswith(" trainer.lr=0.1"), "what all runs share"
    labels = [line.strip().split(": ")[0] for line in lines[3:7]]
    assert labels == ["taught seed 0", "alone seed 0", "taught seed 1", "alone seed 1"]
    assert lines[7:] == [
        "runs that train together:", "  taught seed 0, alone seed 0", "  taught seed 1, alone seed 1",
    ]  # fmt: skip
    assert lines[4].split(": ")[1].startswith("objective=ce -> results/mini/alone/")
    assert top(folder) == set()


def test_some_of_the_variants_are_run_in_the_suites_order(command: Command, folder: Path, suite: list[str]) -> None:
    edit(suite, "seeds:", "baseline: taught\nseeds:")
    edit(suite, "  alone:", "  slow: [objective=kd, trainer.lr=0.01]\n  alone:")
    code, out, err = command("ablation", *suite, "--variants", "alone,taught", "--seeds", "0", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "2 variants x 1 seed = 2 runs"
    assert [line.split(":")[0] for line in out.splitlines()[3:5]] == ["  taught seed 0", "  alone seed 0"]
    code, out, err = command("ablation", *suite, "--variants", "alone", "--seeds", "0")
    assert (code, err) == (0, "")
    assert out.startswith("note: --variants leaves out the baseline 'taught'")
    assert runs(folder) == [("alone", 0, "done")]
    code, out, err = command("ablation", *suite, "--variants", "taught", "--seeds", "0")
    assert (code, err) == (0, "")
    assert "note" not in out
    (table,) = (folder / "results" / "tables").glob("*.csv")
    with table.open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["taught", "alone"], "what ran before stands there"


@pytest.mark.usefixtures("with_figures")
def test_runs_everything_then_writes_its_tables(command: Command, folder: Path, suite: list[str]) -> None:
    code, out, err = command("ablation", *suite)
    assert (code, err) == (0, "")
    assert runs(folder) == [(variant, seed, "done") for variant in ("alone", "taught") for seed in (0, 1)]
    assert {record.study for record in students(folder).values()} == {"mini"}
    assert {str(record.varied) for record in students(folder).values()} == {
        "{'objective': 'kd'}", "{'objective': 'ce'}",
    }  # fmt: skip
    done = re.findall(r"^(\w+ seed \d): .* in ", out, re.MULTILINE)
    assert done == ["resnet8 seed 0", "taught seed 0", "alone seed 0", "taught seed 1", "alone seed 1"]
    assert out.splitlines()[-1] == "4 of 4 runs are finished."
    (table,) = (folder / "results" / "tables").glob("*.csv")
    with table.open() as file:
        assert [(row["variant"], row["n"]) for row in csv.DictReader(file)] == [("taught", "2"), ("alone", "2")]
    assert list((folder / "results" / "tables").glob("*.svg"))
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"mini", "tables", "teachers"}


@pytest.mark.usefixtures("with_figures")
def test_the_report_has_the_suites_order_too(command: Command, folder: Path, suite: list[str]) -> None:
    command("ablation", *suite, "--seeds", "0")
    tables = folder / "results" / "tables"
    before = {path.name: path.read_bytes() for path in tables.iterdir()}
    for own in ([], ["--config-dir", suite[-1]]):  # the suite is kept beside its runs
        assert command("report", "results", *own).code == 0
        assert {path.name: path.read_bytes() for path in tables.iterdir()} == before


def test_finished_runs_are_kept(command: Command, folder: Path, suite: list[str]) -> None:
    command("ablation", *suite, "--seeds", "0")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*")}
    code, out, _ = command("ablation", *suite, "--seeds", "0,5")
    assert code == 0
    assert out.count("(already finished)") == 3, "two students and their teacher"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [seed for _, seed, _ in runs(folder)] == [0, 5, 0, 5]


def test_force_runs_students_again_under_the_same_teacher(command: Command, folder: Path, suite: list[str]) -> None:
    command("ablation", *suite, "--seeds", "0")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    code, out, _ = command("ablation", *suite, "--seeds", "0", "force=true")
    assert (code, out.count("(already finished)")) == (0, 1)
    kept = {path.parts[-4] for path, before in times.items() if path.stat().st_mtime_ns == before}
    assert (len(times), kept) == (3, {"resnet8"})


def test_an_override_serves_every_run(command: Command, folder: Path, suite: list[str]) -> None:
    assert command("ablation", "trainer.lr=0.1", *suite, "results=out", "--seeds", "3").code == 0
    assert command("ablation", *suite, "results=out", "--seeds", "3").out.count("(already finished)") == 1, "teacher"
    assert top(folder) == {"out"}


def test_a_failed_run_is_recorded_and_the_rest_go_on(
    command: Command, folder: Path, suite: list[str], plugin: Plugin
) -> None:
    trouble = plugin("failing_plugin", FAILING).with_name("trouble")
    edit(suite, "  alone:", f'  broken: ["{PLUGIN}", "objective={{ce: {{name: failing}}}}"]\n  alone:')
    trouble.write_text("")
    code, out, err = command("ablation", *suite, "--seeds", "0")
    assert (code, err) == (1, "")
    assert runs(folder) == [("alone", 0, "done"), ("broken", 0, "failed"), ("taught", 0, "done")]
    assert {r.error for r in students(folder).values()} == {None, "RuntimeError: out of luck"}
    assert re.search(r"^broken seed 0: failed: RuntimeError: out of luck \[run \d of 3\]$", out, re.M)
    assert out.splitlines()[-2:] == [
        "2 of 3 runs are finished.",
        "failed: broken seed 0: RuntimeError: out of luck",
    ]
    assert (folder / "results" / "tables").is_dir()
    assert top(folder / "results") == {"mini", "tables", "teachers"}
    trouble.unlink()
    code, out, _ = command("ablation", *suite, "--seeds", "0")
    assert code == 0
    assert out.count("(already finished)") == 2
    assert {status for _, _, status in runs(folder)} == {"done"}


def test_data_that_cannot_be_had_end_the_suite_in_one_line(
    command: Command, folder: Path, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(part: Part) -> Dataset:
        raise UserError("digits cannot be downloaded")

    monkeypatch.setattr("graphkd.run.part.Part.build", build)
    said = "graphkd: suite 'mini': variant 'taught': digits cannot be downloaded\n"
    assert command("ablation", *suite) == (2, "", said)
    assert top(folder) == set()


PICKY = """
from graphkd import OBJECTIVES
from graphkd.errors import check
from graphkd.objective.ce import CrossEntropy

@OBJECTIVES.register("picky")
class Picky(CrossEntropy):
    "Takes as many samples as there are when it is spec, before there are data."

    def __init__(self, labels):
        super().__init__()
        check(len(labels) == 100, "picky: there must be 100 samples")
"""


def test_what_does_not_fit_the_data_is_told_before_any_teacher_is_trained(
    command: Command, folder: Path, suite: list[str], plugin: Plugin
) -> None:
    plugin("picky_plugin", PICKY)
    edit(suite, "  alone:", '  picky: ["plugins=[picky_plugin]", "objective={x: picky}"]\n  alone:')
    said = "graphkd: suite 'mini': variant 'picky': picky: there must be 100 samples\n"
    assert command("ablation", *suite) == (2, "", said)
    assert top(folder) == set()


def test_what_cannot_work_is_refused_before_a_teacher_is_trained(
    command: Command, folder: Path, suite: list[str]
) -> None:
    edit(suite, "alone: [objective=ce]", "flow: [objective=fsp, 'student={name: resnet8, widths: [2, 2, 4, 6]}']")
    code, _, err = command("ablation", *suite)
    assert code == 2
    assert re.fullmatch("graphkd: suite 'mini': variant 'flow': objective 'fsp': it cannot work for this pair.*\n", err)
    assert not list(folder.glob("results/teachers/*"))


def test_where_everything_fails_it_says_so(command: Command, folder: Path, suite: list[str], plugin: Plugin) -> None:
    plugin("failing_plugin", FAILING).with_name("trouble").write_text("")
    edit(suite, "  taught: [objective=kd]\n  alone: [objective=ce]", f'  a: ["{PLUGIN}", "objective={{x: failing}}"]')
    code, out, err = command("ablation", *suite)
    assert (code, err) == (1, "")
    assert "0 of 2 runs are finished." in out.splitlines()
    assert not (folder / "results" / "tables").exists()


def test_a_variant_may_have_any_plain_name(command: Command, folder: Path, suite: list[str]) -> None:
    names = ["1", "true", "null", "hkd+kd", "a b", "a,b", "it's", "k=8", "~x"]
    variants = "".join(f'  "{name}": [objective=ce]\n' for name in names)
    edit(suite, "  taught: [objective=kd]\n  alone: [objective=ce]", variants)
    code, out, err = command("ablation", *suite, "--dry-run", "--seeds", "0")
    assert (code, err) == (0, "")
    for name, line in zip(names, out.splitlines()[3 : 3 + len(names)], strict=True):
        assert line.startswith(f"  {name} seed 0: objective=ce -> results/mini/{name}/")


def test_an_interrupted_suite_leaves_nothing_of_hydra(
    command: Command, folder: Path, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(specs: Sequence[RunSpec], *arguments: Any, **options: Any) -> list[RunResult | Exception]:
        if specs[0].kind == "teacher":
            return run_together(specs, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("graphkd.run.run_together", interrupt)
    assert command("ablation", *suite).code == 130
    assert top(folder / "results") == {"teachers"}


@pytest.fixture
def owner(folder: Path) -> Iterator[ForkServerProcess]:
    """Another process that launches runs of these results."""
    source = (
        "import time\nfrom pathlib import Path\nfrom graphkd.run.folder import launch_folder\n"
        "with launch_folder(Path('results')) as place:\n"
        "    (place / '0.yaml').write_text('seed: 0'); time.sleep(100)"
    )
    process = forked.start(forked.source, [source], folder, Path(os.devnull), Path(os.devnull))
    while process.is_alive() and not list(folder.glob("results/.launch-*/0.yaml")):
        time.sleep(0.01)
    yield process
    process.kill()


def test_what_a_killed_suite_left_is_removed_by_the_next(
    command: Command, folder: Path, suite: list[str], owner: ForkServerProcess
) -> None:
    (place,) = (path.parent for path in folder.glob("results/.launch-*/0.yaml"))
    left = {place.name, f"{place.name}.lock"}
    assert command("ablation", *suite, "--seeds", "0").code == 0
    assert left < top(folder / "results"), "its owner is at work"
    owner.kill()
    owner.join()
    (folder / "results" / ".launch-without-a-lock").mkdir()
    assert command("report", "results", "--config-dir", suite[-1]) == command(
        "report", "results/mini", "--out", "results/tables", "--config-dir", suite[-1]
    ), "it says nothing to a report"
    assert left < top(folder / "results")
    assert command("ablation", *suite, "--seeds", "0").code == 0
    assert top(folder / "results") == {"mini", "tables", "teachers"}


def test_an_interrupted_sweep_leaves_nothing_either(
    command: Command, folder: Path, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        assert any(name.startswith(".launch-") for name in top(folder / "results"))
        raise KeyboardInterrupt

    monkeypatch.setattr("graphkd.run.run_together", interrupt)
    (folder / "results" / ".launch-abandoned").mkdir(parents=True)
    assert command("run", "-m", *tiny_words, "objective=ce", "seed=0,1").code == 130
    assert top(folder / "results") == set()


PAIR = "\n".join(
    [
        "# @package _global_",
        "teacher: {name: resnet8, widths: [2, 2, 4, 4], seed: 0, checkpoint: null, train_fraction: 0.1}",
        "student: {name: STUDENT, widths: [2, 2, 4, 4]}",
    ]
)


@pytest.fixture
def paired(suite: list[str], tiny_words: list[str]) -> list[str]:
    """The same suite over two pairs, `a` with resnet8 as student and `b` with resnet14."""
    own = Path(suite[-1])
    (own / "pair").mkdir()
    for name, student in {"a": "resnet8", "b": "resnet14", "a_again": "resnet8"}.items():
        (own / "pair" / f"{name}.yaml").write_text(PAIR.replace("STUDENT", student))
    words = [word for word in tiny_words if not word.startswith(("teacher=", "student="))]
    edit(suite, f"base: {tiny_words!r}", f"base: {words!r}\npairs: [a, b]")
    return suite


def test_a_suite_over_pairs_has_a_table_for_each(command: Command, folder: Path, paired: list[str]) -> None:
    code, out, err = command("ablation", *paired, "--seeds", "0")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "4 of 4 runs are finished."
    found = students(folder)
    assert {(place.relative_to(folder).parts[2:4], record.pair) for place, record in found.items()} == {
        (("a", "alone"), "resnet8->resnet8"), (("a", "taught"), "resnet8->resnet8"),
        (("b", "alone"), "resnet8->resnet14"), (("b", "taught"), "resnet8->resnet14"),
    }  # fmt: skip
    assert {path.stem for path in (folder / "results" / "tables").glob("*.csv")} == {
        "mini_resnet8-resnet8", "mini_resnet8-resnet14",
    }  # fmt: skip
    assert command("ablation", *paired, "--seeds", "0").out.count("(already finished)") == 4


def test_a_student_that_learns_alone_has_a_record_in_every_pair(
    command: Command, folder: Path, paired: list[str]
) -> None:
    (Path(paired[-1]) / "pair" / "b.yaml").write_text(
        PAIR.replace("name: resnet8", "name: resnet14").replace("STUDENT", "resnet8")
    )
    assert command("ablation", *paired, "--seeds", "0").code == 0
    alone = [record for record in students(folder).values() if record.variant == "alone"]
    assert len({record.identity for record in alone}) == 1
    assert {record.pair for record in alone} == {"resnet8->resnet8", "resnet14->resnet8"}


def test_pairs_can_be_chosen(command: Command, paired: list[str]) -> None:
    lines = command("ablation", *paired, "--seeds", "0", "--pairs", "b", "--dry-run").out.splitlines()
    assert lines[1] == "2 variants x 1 pair x 1 seed = 2 runs"
    assert [line.strip().split(": ")[0] for line in lines[3:5]] == ["b taught seed 0", "b alone seed 0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pair=a"], "'pair=a': a suite sets pair itself; see --pairs"),
        (["--pairs", "a,a"], "--pairs names a pair twice: a,a"),
        (["--pairs", "c"], "pair has no config 'c'"),
        (["--pairs", "a,a_again"], "the pairs 'a' and 'a_again' are both resnet8->resnet8"),
        (["+teacher.widht=3"], "suite 'mini': variant 'taught': model 'resnet8' has no option 'widht'"),
    ],
)
def test_mistakes_with_pairs_are_told(
    command: Command, folder: Path, paired: list[str], words: list[str], message: str
) -> None:
    code, _, err = command("ablation", *paired, *words)
    assert code == 2
    assert message in err
    assert top(folder) == set()


def test_a_suite_without_pairs_takes_none(command: Command, suite: list[str]) -> None:
    code, _, err = command("ablation", *suite, "--pairs", "a")
    assert code == 2
    assert "--pairs: suite 'mini' names no pairs; choose one with pair=NAME" in err


def test_a_suite_names_the_layout_of_its_tables(command: Command, folder: Path, suite: list[str]) -> None:
    edit(suite, "variants:", "table: short\nvariants:")
    assert command("ablation", *suite, "--seeds", "0").code == 0
    assert [path.name for path in (folder / "results" / "tables").glob("*.csv")] == ["mini_resnet8-resnet8_short.csv"]
    edit(suite, "table: short", "table: shrot")
    code, _, err = command("ablation", *suite, "--seeds", "0")
    assert code == 2
    assert "there is no table 'shrot'; did you mean 'short'?" in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "variants:",
            "transfer: [data=digts]\nvariants:",
            "suite 'mini': data has no config 'digts'; did you mean 'digits'?",
        ),
        (
            "variants:",
            "transfer: ['data.clases=[1,2]']\nvariants:",
            "suite 'mini': data set 'digits' has no option 'clases'",
        ),
        ("[objective=ce]", "[objective=ce, run_dir=out]", "suite 'mini': 'run_dir=out': a suite sets run_dir itself\n"),
        ("base: [", "base: [+seed=3, ", "suite 'mini': '+seed=3': a suite sets seed itself\n"),
    ],
)
def test_mistakes_in_a_suites_file_are_told_before_anything_is_run(
    command: Command, folder: Path, suite: list[str], old: str, new: str, message: str
) -> None:
    edit(suite, old, new)
    code, _, err = command("ablation", *suite)
    assert code == 2
    assert message in err
    assert top(folder) == set()


def test_a_failed_probe_is_a_failure_of_the_suite(
    command: Command, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(suite, "variants:", "transfer: ['data.classes=[5,6]']\nvariants:")
    monkeypatch.setattr("graphkd_cli.ablation.launch", lambda *_: {})
    monkeypatch.setattr("graphkd_cli.studies.write_study", lambda *_: None)
    monkeypatch.setattr("graphkd_cli.transfer.main", lambda _: 1)
    code, out, err = command("ablation", *suite)
    assert (code, err) == (1, "")
    assert out == "4 of 4 runs are finished.\n"


def test_jobs_of_a_cluster_are_not_sized_by_this_machine() -> None:
    def check_machine() -> str:
        raise UserError("there is no GPU here")

    spec: Any = SimpleNamespace(trainer=SimpleNamespace(check_machine=check_machine, threads=2))
    slurm = ["hydra/launcher=submitit_slurm"]
    assert Ways(launcher=slurm).workers([spec]) == 1
    assert Ways(jobs=3, launcher=slurm).workers([spec]) == 3


@pytest.fixture
def several(suite: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three suites and nothing else: `long` is a comparison, the other two, `mini` and `other`, are not."""
    monkeypatch.setattr("graphkd_cli.studies.suite_names", lambda _=None: ["long", "mini", "other"])
    mini = (Path(suite[-1]) / "ablation" / "mini.yaml").read_text()
    for name, text in {"other": mini, "long": mini + "\ncomparison: true"}.items():
        (Path(suite[-1]) / "ablation" / f"{name}.yaml").write_text(text)
    return ["all", *suite[1:], "--seeds", "0"]


def test_all_is_every_suite_but_the_comparisons(command: Command, folder: Path, several: list[str]) -> None:
    dry = command("ablation", *several, "--dry-run", "trainer.lr=0.1")
    assert dry.code == 0
    lines = dry.out.splitlines()
    assert [lines[at].split(":")[0] for at in (0, 7)] == ["mini", "other"]
    assert [lines[at].endswith(" trainer.lr=0.1") for at in (2, 9)] == [True, True]
    code, out, err = command("ablation", *several)
    assert (code, err) == (0, "")
    assert {record.study for record in students(folder).values()} == {"mini", "other"}
    assert out.splitlines().count("2 of 2 runs are finished.") == 2
    assert {path.stem for path in (folder / "results" / "tables").glob("*.csv")} == {
        "mini_resnet8-resnet8", "other_resnet8-resnet8",
    }  # fmt: skip


def test_a_suite_of_all_that_fails_does_not_stop_the_others(
    command: Command, folder: Path, several: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = studies.write_study

    def stumble(results: Path, study: str, *rest: Any) -> None:
        if study == "mini":
            raise OSError("the disk is full")
        write(results, study, *rest)

    monkeypatch.setattr("graphkd_cli.studies.write_study", stumble)
    code, out, err = command("ablation", *several)
    assert code == 1
    assert err == "suite 'mini' failed: OSError: the disk is full\n"
    assert out.splitlines()[-1] == "2 of 2 runs are finished."
    assert {record.study for record in students(folder).values()} == {"mini", "other"}


def test_a_mistake_in_one_of_all_suites_is_told_before_any_runs(
    command: Command, folder: Path, several: list[str]
) -> None:
    path = Path(several[2]) / "ablation" / "other.yaml"
    path.write_text(path.read_text().replace("objective=ce", "objective=cee"))
    code, _, err = command("ablation", *several)
    assert code == 2
    assert "suite 'other': variant 'alone'" in err
    assert top(folder) == set()


def test_no_suite_is_called_all(command: Command, suite: list[str]) -> None:
    mini = Path(suite[-1]) / "ablation" / "mini.yaml"
    mini.rename(mini.with_name("all.yaml"))
    code, _, err = command("ablation", "all", *suite[1:], "--dry-run")
    assert code == 2
    assert "ablation/all.yaml: 'all' means every suite, so no suite can have that name" in err


@pytest.mark.slow
def test_a_suite_runs_in_parallel(command: Command, folder: Path, suite: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    code, out, _ = command("ablation", *suite, "--seeds", "0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert code == 0
    assert out.splitlines()[-1] == "2 of 2 runs are finished."
    assert runs(folder) == [("alone", 0, "done"), ("taught", 0, "done")]
    assert {record.threads for record in students(folder).values()} == {1}
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"mini", "tables", "teachers"}
    parallel = {record.variant: record.metrics for record in students(folder).values()}
    command("ablation", *suite, "--seeds", "0", "results=in_order")
    alone = students(folder / "in_order").values()
    assert {record.variant: record.metrics for record in alone} == parallel, "the same numbers, bit for bit"
