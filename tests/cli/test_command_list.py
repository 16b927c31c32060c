from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import Command, OwnConfigs, top

from graphkd import BUILDERS, DATASETS, GNNS, MODELS, OBJECTIVES
from graphkd.registry import Registry

KINDS: dict[str, Registry[Any]] = {
    "builders": BUILDERS,
    "gnns": GNNS,
    "objectives": OBJECTIVES,
    "models": MODELS,
    "data": DATASETS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_stands_there_with_its_options(command: Command, folder: Path, kind: str) -> None:
    registry = KINDS[kind]
    code, out, err = command("list", kind)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == kind
    for name in registry.names():
        assert f" {name} " in out
        for option in registry.options(name):
            assert f" {option} (" in out
    assert top(folder) == set()


def test_defaults_are_shown_as_one_writes_them(command: Command) -> None:
    out = command("list", "builders", "models").out
    assert " k (8): an integer " in out
    assert " k (null): an integer or null " in out
    assert " mutual (false): true or false " in out
    assert "[32, 64, 128, 256]" in out


def test_without_a_kind_there_is_everything(command: Command) -> None:
    out = command("list").out
    assert [line for line in out.splitlines() if line in {*KINDS, "suites"}] == [*KINDS, "suites"]


def test_suites_are_those_of_graphkd_and_ones_own(command: Command, own_configs: OwnConfigs) -> None:
    own = own_configs(
        {"ablation/mine.yaml": "description: what I tried\nseeds: [0]\nbase: []\nvariants: {a: [], b: []}\n"}
    )
    out = command("list", "suites", "--config-dir", str(own)).out
    assert " digits " in out
    (line,) = (line for line in out.splitlines() if " mine " in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["mine", "what I tried", "2", "1"]
