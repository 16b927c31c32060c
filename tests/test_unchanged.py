"""What must never change by accident: the identity of every shipped run, and the bytes of short trainings.

`python tests/test_unchanged.py` writes both anew. The bytes depend on torch and on the processor's instructions, so
they are kept for each and compared only where they are known.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from graphkd.ablation import SuiteRun
from graphkd.run import StudentSpec, parse, run
from graphkd.run.records import pair_name
from graphkd_cli.compose import Composed, check_used, compose
from graphkd_cli.studies import read_suite, suite_names

GOLDEN = Path(__file__).parent / "golden" / "unchanged.json"
SHORT = [
    "trainer.epochs=2", "trainer.threads=1", "teacher_trainer.epochs=1", "data.train_fraction=0.2", "negatives=32",
    "student={name: resnet8, widths: [2, 2, 4, 4]}", "teacher={name: resnet8, widths: [2, 2, 4, 8]}",
]  # fmt: skip
TRAININGS = {
    "hkd_shared": ["objective=hkd_kd", "gnn=gat"],
    "hkd_explicit": ["objective=hkd", "objective.hkd.sampler=explicit", "builder=label_aware"],
    "hkd_all_weighted": ["objective=hkd", "objective.hkd.sampler=all_weighted", "gnn=sage"],
    "hkd_queue": ["objective=hkd", "bank.kind=queue", "bank.length=128", "builder=threshold"],
    "crd": ["objective=crd_kd"],
    "ft": ["objective=ft", "objective.ft.stage_epochs=1"],
    "ema_accumulated": ["objective=kd", "trainer.ema=0.9", "trainer.accumulate=2", "trainer.clip_norm=1.0"],
}


def spec(words: Sequence[str]) -> StudentSpec:
    """The run of some overrides."""
    return parse(compose(words).config)


def shipped(runs: Sequence[SuiteRun], whole: bool = False) -> Iterator[tuple[SuiteRun, Composed, StudentSpec]]:
    """Runs of a suite, composed and bound: those that differ from the first in one of variant, pair and seed.

    With `whole`, every variant with every pair.
    """
    first = runs[0]
    for each in runs:
        differences = (each.variant != first.variant) + (each.pair != first.pair) + (each.seed != first.seed)
        if differences <= 1 or (whole and each.seed == first.seed):
            composed = compose(each.overrides)
            yield each, composed, parse({**composed.config, "varied": each.varied})


def name_of(each: SuiteRun) -> str:
    """How a run is called in the file; seeds do not count."""
    return f"{each.pair} {each.variant}" if each.pair else each.variant


def identities(runs: Iterable[tuple[SuiteRun, Composed, StudentSpec]]) -> dict[str, str]:
    """The first 16 digits of the identity of each variant (and pair)."""
    found: dict[str, set[str]] = {}
    for each, _, made in runs:
        found.setdefault(name_of(each), set()).add(made.identity[:16])
    assert all(len(of) == 1 for of in found.values()), "an identity depends on the seed"
    return {name: of.pop() for name, of in found.items()}


def machine() -> str:
    """What the bytes of a training depend on beside its config."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def weights_hash(name: str, results: Path) -> str:
    """SHA-256 of the student's weights after a short training."""
    folder = run(spec([*SHORT, *TRAININGS[name], f"results={results}"])).folder
    return hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("suite", suite_names())
def test_every_shipped_run_binds_and_keeps_its_identity(golden: dict[str, Any], suite: str) -> None:
    read_in, known = read_suite(suite), golden["identities"][suite]
    every = read_in.runs(suite)
    assert known.keys() == {name_of(each) for each in every}
    runs = list(shipped(every))
    found = identities(runs)
    assert found == {name: known[name] for name in found}
    pairs: dict[str, str | None] = {}
    for each, composed, made in runs:
        check_used(composed, made.unused_nodes, [f"{key}={value}" for key, value in each.varied.items()])
        assert made.seed == each.seed
        assert made.folder.parts[-4:-2] == (suite, each.variant)
        assert pairs.setdefault(pair_name(composed.config), each.pair) == each.pair
    assert {each.variant for each, _, _ in runs} == read_in.variants.keys()
    assert len(pairs) == max(len(read_in.pairs), 1), "records tell pairs apart by this name"
    first = [made.identity for each, _, made in runs if (each.pair, each.seed) == (runs[0][0].pair, runs[0][0].seed)]
    assert len(set(first)) == len(read_in.variants), "two variants are the same run"


@pytest.mark.parametrize("name", TRAININGS)
def test_a_short_training_ends_with_the_same_bytes(
    golden: dict[str, Any], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    known = golden["students"].get(machine())
    if known is None:
        pytest.skip(f"no bytes are known for {machine()}")
    assert weights_hash(name, tmp_path_factory.getbasetemp() / "unchanged") == known[name]


if __name__ == "__main__":
    torch.set_num_threads(1)
    document = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"students": {}}
    with tempfile.TemporaryDirectory() as folder:
        document["students"][machine()] = {name: weights_hash(name, Path(folder)) for name in TRAININGS}
    suites = {suite: read_suite(suite).runs(suite) for suite in suite_names()}
    document["identities"] = {suite: identities(shipped(runs, whole=True)) for suite, runs in suites.items()}
    GOLDEN.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
