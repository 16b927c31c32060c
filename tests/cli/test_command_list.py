from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from commands import Command, OwnConfigs, Plugin, top

from graphkd import BUILDERS, DATASETS, DISCREPANCIES, GNNS, MODELS, OBJECTIVES, RELATIONS
from graphkd.registry import Registry, import_plugins
from graphkd_cli import list as list_command
from graphkd_cli.config_files import config_names
from graphkd_cli.main import main
from graphkd_cli.studies import read_spec

KINDS: dict[str, Registry[Any]] = {
    "builders": BUILDERS,
    "gnns": GNNS,
    "objectives": OBJECTIVES,
    "relations": RELATIONS,
    "discrepancies": DISCREPANCIES,
    "models": MODELS,
    "data": DATASETS,
}


@pytest.fixture(scope="module")
def listed_models() -> str:
    """What `graphkd list models` prints; every model is run once for its figures."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["list", "models"]) == 0
    return out.getvalue()


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs no model, where its figures do not matter."""
    monkeypatch.setattr(list_command, "_figures", lambda name: [""] * len(list_command._FIGURES))


@pytest.mark.usefixtures("without_figures")
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


def test_encoders_are_gnns_too(command: Command) -> None:
    assert command("list", "encoders").out == command("list", "gnns").out != ""


@pytest.mark.usefixtures("without_figures")
def test_defaults_are_shown_as_one_writes_them(command: Command) -> None:
    out = command("list", "builders", "models").out
    assert " k (8): an integer " in out
    assert " k (null): an integer or null " in out
    assert " mutual (false): true or false " in out
    assert "[32, 64, 128, 256]" in out


def test_models_are_listed_with_what_they_cost_and_show(listed_models: str) -> None:
    assert "Figures for 100 classes and 3x32x32 images" in listed_models
    (line,) = (line for line in listed_models.splitlines() if line.startswith("│ resnet8x4 "))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[2:6] == ["1.23", "177.1", "32x32x32, 64x32x32, 128x16x16, 256x8x8", "256"]


def test_families_stand_at_the_end_with_how_to_use_them(listed_models: str) -> None:
    rows = [line.strip("│").split("│") for line in listed_models.splitlines() if line.startswith("│ ")]
    names = [cells[0].strip() for cells in rows if cells[0].strip()]
    assert names[-2:] == ["timm/NAME", "torchvision/NAME"]
    assert "student={name: torchvision/resnet18, weights: DEFAULT}" in listed_models
    assert " weights (null): text or null " in listed_models


def test_a_model_that_does_not_run_on_such_images_is_listed_all_the_same(
    command: Command, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(
        "their_models",
        """
        from graphkd import MODELS
        from graphkd.model import Network

        @MODELS.register("stubborn")
        class Stubborn(Network):
            '''Runs on nothing.'''
            def __init__(self, num_classes: int, size: int = 9) -> None:
                super().__init__()
            def forward(self, images):
                raise ValueError("not these")
        """,
    )
    import_plugins(["their_models"])
    monkeypatch.setattr(MODELS, "names", lambda: ["resnet8", "stubborn"])
    (line,) = (line for line in command("list", "models").out.splitlines() if line.startswith("│ stubborn "))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["stubborn", "Runs on nothing.", "", "", "", "", "size (9): an integer"]


def test_a_plug_in_is_listed_too(command: Command, plugin: Plugin) -> None:
    plugin("my_graphs", PLUGIN)
    for words in (["builders", "plugins=[my_graphs]"], ["plugins=[my_graphs]", "builders"]):
        code, out, err = command("list", *words)
        assert (code, err) == (0, "")
        assert "│ mutual " in out
        assert "│ knn " in out


PLUGIN = """
from graphkd import BUILDERS
from graphkd.builder.knn import KNN

@BUILDERS.register("mutual")
class Mutual(KNN):
    "Keeps an edge where both ends choose each other."
"""


def test_without_a_kind_there_is_everything_of_graphkd_and_ones_own_in_short(
    command: Command, own_configs: OwnConfigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(list_command.compose, "compose")  # an overview is quick
    monkeypatch.delattr(list_command, "_figures")
    own = own_configs(OWN)
    code, out, err = command("list", "--config-dir", str(own))
    assert (code, err) == (0, "")
    presets = ["pairs", "suites", "tables"]
    assert [line for line in out.splitlines() if line in {*KINDS, "loggers", *presets}] == [
        *KINDS, "loggers", *presets,
    ]  # fmt: skip
    names = {row[0] for row in rows(out)}
    assert names.issuperset(name for registry in KINDS.values() for name in registry.names())
    assert ["mine", "vgg13", "resnet8 widths=[4, 4, 8, 16]"] in rows(out)
    assert ["mine", "what I tried"] in rows(out)
    assert ["short", "all in one column"] in rows(out)  # the user's own replaces graphkd's
    assert ["self_only", "Self loops and nothing else."] in rows(out)
    assert "tau" not in names
    assert out.splitlines()[-1].startswith("options of each: graphkd list KIND (kinds: builders, ")


def test_named_pairs_suites_and_tables_are_shown_in_full(command: Command, own_configs: OwnConfigs) -> None:
    own = own_configs(OWN)
    out = command("list", "pairs", "suites", "tables", "--config-dir", str(own)).out
    assert ["mine", "vgg13", "resnet8 widths=[4, 4, 8, 16]", "0.02"] in rows(out)
    assert ["vgg13_MobileNetV2", "vgg13", "MobileNetV2", "0.01"] in rows(out)
    assert ["mine", "what I tried", "2", "1"] in rows(out)
    assert any(row[0] == "digits" for row in rows(out))
    assert ["short", "all in one column", "columns", "test_top1_last"] in rows(out)
    (grid,) = (row for row in rows(out) if row[0] == "table1" and len(row) == 4 and row[2] == "grid")
    assert grid[3].split(", ")[-1] == "hkd_kd"


@pytest.mark.parametrize("name", config_names("table"))
def test_every_layout_says_what_it_shows(name: str) -> None:
    assert read_spec(name).description


OWN = {
    "pair/mine.yaml": "# @package _global_\nteacher: {name: vgg13}\nstudent: {name: resnet8, widths: [4, 4, 8, 16]}\n"
    "trainer: {lr: 0.02}\n",
    "ablation/mine.yaml": "description: what I tried\nseeds: [0]\nbase: []\nvariants: {a: [], b: []}\n",
    "table/short.yaml": "name: short\ndescription: all in one column\ncolumns: [test_top1_last]\n",
}


def rows(out: str) -> list[list[str]]:
    """The cells of each printed row."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "│" in line]
