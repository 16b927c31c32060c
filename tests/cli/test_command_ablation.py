from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from commands import Command, OwnConfigs, Plugin, students, top

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
    planned = [line.strip().split(": ")[0] for line in lines[3:]]
    assert planned == ["taught seed 0", "alone seed 0", "taught seed 1", "alone seed 1"]
    assert lines[4].split(": ")[1].startswith("objective=ce -> results/mini/alone/")
    assert top(folder) == set()


def test_runs_everything_then_writes_its_tables(command: Command, folder: Path, suite: list[str]) -> None:
    code, out, err = command("ablation", *suite)
    assert (code, err) == (0, "")
    assert runs(folder) == [(variant, seed, "done") for variant in ("alone", "taught") for seed in (0, 1)]
    assert {record.study for record in students(folder).values()} == {"mini"}
    assert {str(record.varied) for record in students(folder).values()} == {
        "{'objective': 'kd'}", "{'objective': 'ce'}",
    }  # fmt: skip
    done = [line.split(":")[0] for line in out.splitlines() if " in " in line and "seed" in line]
    assert done == ["resnet8 seed 0", "taught seed 0", "alone seed 0", "taught seed 1", "alone seed 1"]
    assert out.splitlines()[-1] == "4 of 4 runs are finished."
    (table,) = (folder / "results" / "tables").glob("*.csv")
    with table.open() as file:
        assert [(row["variant"], row["n"]) for row in csv.DictReader(file)] == [("taught", "2"), ("alone", "2")]
    assert top(folder) == {"results"}
    assert top(folder / "results") == {"mini", "tables", "teachers"}


def test_the_report_has_the_suites_order_too(command: Command, folder: Path, suite: list[str]) -> None:
    command("ablation", *suite, "--seeds", "0")
    tables = folder / "results" / "tables"
    before = {path.name: path.read_bytes() for path in tables.iterdir()}
    assert command("report", "results", "--config-dir", suite[-1]).code == 0
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == before


def test_finished_runs_are_kept(command: Command, folder: Path, suite: list[str]) -> None:
    command("ablation", *suite, "--seeds", "0")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*")}
    code, out, _ = command("ablation", *suite, "--seeds", "0,5")
    assert code == 0
    assert out.count("(was there)") == 3, "two students and their teacher"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [seed for _, seed, _ in runs(folder)] == [0, 5, 0, 5]


def test_an_override_serves_every_run(command: Command, folder: Path, suite: list[str]) -> None:
    assert command("ablation", "trainer.lr=0.1", *suite, "results=out", "--seeds", "3").code == 0
    assert command("ablation", *suite, "results=out", "--seeds", "3").out.count("(was there)") == 1, "the teacher"
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
    assert "broken seed 0: failed: RuntimeError: out of luck" in out.splitlines()
    assert out.splitlines()[-2:] == [
        "2 of 3 runs are finished.",
        "failed: broken seed 0: RuntimeError: out of luck",
    ]
    assert (folder / "results" / "tables").is_dir()
    assert top(folder / "results") == {"mini", "tables", "teachers"}
    trouble.unlink()
    code, out, _ = command("ablation", *suite, "--seeds", "0")
    assert code == 0
    assert out.count("(was there)") == 3, "two students and the teacher"
    assert {status for _, _, status in runs(folder)} == {"done"}


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
    for name, line in zip(names, out.splitlines()[3:], strict=True):
        assert line.startswith(f"  {name} seed 0: objective=ce -> results/mini/{name}/")


def test_an_interrupted_suite_leaves_nothing_of_hydra(
    command: Command, folder: Path, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphkd.run.run", interrupt)
    assert command("ablation", *suite).code == 130
    assert top(folder / "results") == {"teachers"}


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
