"""Every shipped config against the constructor that it configures."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from graphkd import BUILDERS, DATASETS, DISCREPANCIES, GNNS, LOGGERS, MODELS, OBJECTIVES, RELATIONS, Trainer
from graphkd.binding import Option, bind, options_of
from graphkd.contrast.options import BankOptions
from graphkd.registry import Registry
from graphkd.run import parse
from graphkd.run.parse import KEYS, OWN_PARTS
from graphkd_cli.compose import compose
from graphkd_cli.studies import read_spec, read_suite

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PARTS: dict[str, Registry[Any]] = {
    "builder": BUILDERS, "gnn": GNNS, "term": OBJECTIVES, "data": DATASETS,
    "relation": RELATIONS, "discrepancy": DISCREPANCIES, "logger": LOGGERS,
}  # fmt: skip
"""The registry whose members each group of part configs configures."""
PACKAGES = {"term": "objective"}
"""Packages of graphkd that are named otherwise than the group."""
GRAPH_NODES = ["builder", "gnn", "teacher_gnn"]
PAPER = [
    "resnet32x4_resnet8x4", "resnet32x4_ShuffleV2", "vgg13_MobileNetV2", "ResNet50_vgg8", "ResNet50_MobileNetV2",
]  # fmt: skip
BENCHMARK = [
    *PAPER, "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1", "resnet56_resnet20", "resnet110_resnet20", "resnet110_resnet32",
    "vgg13_vgg8", "resnet32x4_ShuffleV1", "wrn_40_2_ShuffleV1",
]  # fmt: skip
SLOW_LEARNERS = {"MobileNetV2", "ShuffleV1", "ShuffleV2"}
"""Students that the benchmark trains with a learning rate of 0.01."""


def files(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def read(group: str, name: str) -> dict[str, Any]:
    """A file's content over that of the files that it starts from, interpolations as written."""
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"), resolve=False)
    assert isinstance(content, dict)
    bases = content.pop("defaults", [])
    merged: dict[str, Any] = {}
    for base in bases:
        if isinstance(base, dict):  # "/group@node": "file"
            ((choice, file),) = base.items()
            of_group, _, node = choice.removeprefix("/").partition("@")
            merged[node] = read(of_group, file)
        elif base != "_self_":
            merged |= read(group, base)
    return {**merged, **{str(key): value for key, value in content.items()}}


def is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${")


def check_lists_all(content: dict[str, Any], options: dict[str, Option]) -> None:
    """The same names both ways, values of the right type, and those of the defaults."""
    assert content.keys() == options.keys()
    own = {key: value for key, value in content.items() if not is_interpolation(value)}
    known = {key: options[key] for key in own}
    assert bind(own, known, "the config").given == {}


part_configs = pytest.mark.parametrize(("group", "name"), [(group, name) for group in PARTS for name in files(group)])
members = pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, registry in PARTS.items() for name in registry.names()]
)


@part_configs
def test_a_part_config_lists_every_option_at_its_default(group: str, name: str) -> None:
    content, registry = read(group, name), PARTS[group]
    assert content.pop("name") == name
    if group == "term":
        weight = content.pop("weight")
        assert content.pop("schedule") is None
        weights = weight.values() if isinstance(weight, dict) else [weight]
        assert all(isinstance(value, float) for value in weights)
        wanted = inspect.signature(registry.get(name)).parameters
        nodes = GRAPH_NODES if "student_gnn" in wanted else GRAPH_NODES[:1] if "builder" in wanted else []
        assert {node: content.pop(node) for node in nodes} == dict.fromkeys(nodes)
        for node in OWN_PARTS:
            if node in content:
                part = content.pop(node)
                check_lists_all(part, PARTS[node].options(part.pop("name")))
    check_lists_all(content, registry.options(name))


@members
def test_a_registered_part_has_a_config_and_a_file_of_its_name(group: str, name: str) -> None:
    registry = PARTS[group]
    assert name in files(group)
    factory: Any = registry.get(name)
    assert factory.__module__ == f"graphkd.{PACKAGES.get(group, group)}.{name}"
    assert getattr(factory, "name", name) in (name, "")


@part_configs
def test_a_part_config_belongs_to_a_registered_part(group: str, name: str) -> None:
    assert name in PARTS[group].names()


@pytest.mark.parametrize("name", files("trainer"))
def test_a_trainer_config_lists_every_option(name: str) -> None:
    content = read("trainer", name)
    assert content.keys() == options_of(Trainer).keys()
    Trainer(**bind(content, options_of(Trainer), name).all)


def test_the_benchmarks_protocol_is_the_trainers_default() -> None:
    check_lists_all(read("trainer", "benchmark"), options_of(Trainer))


def test_the_main_config_lists_every_node_and_every_option_of_a_bank() -> None:
    content = read_main()
    groups = {
        next(iter(entry)).partition("@")[2] or next(iter(entry)) for entry in content["defaults"] if entry != "_self_"
    }
    given_elsewhere = {"student", "varied"}  # the pair's, and the suites'
    assert {*content, *groups} - {"defaults", "hydra"} >= KEYS - given_elsewhere
    check_lists_all(content["bank"], options_of(BankOptions))
    assert content["negatives"] == OBJECTIVES.options("hkd")["negatives"].default


def read_main() -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("objective", "pair", "experiment", "data", "trainer") for name in files(group)],
)
def test_a_choice_of_a_group_composes_and_binds(group: str, name: str) -> None:
    parse(compose([f"{group}={name}"]).config)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in ("builder", "gnn") for name in files(group)])
def test_a_choice_of_graph_part_is_what_the_run_uses(group: str, name: str) -> None:
    spec = parse(compose([f"{group}={name}"]).config)
    term = spec.terms["hkd"]
    part = {"builder": term.builder, "gnn": term.gnn}[group]
    assert part is not None
    assert part.name == name
    assert part.bound.given == {}


@pytest.mark.parametrize("name", files("term"))
def test_a_term_can_stand_alone(name: str) -> None:
    spec = parse(compose([f"+term@objective.more={name}"]).config)
    assert spec.terms["more"].part.name == name


@pytest.mark.parametrize("suite", files("ablation"))
def test_a_suites_table_binds(suite: str) -> None:
    read_spec(read_suite(suite).table)


def test_the_pairs_are_the_benchmarks_and_the_embedded_one() -> None:
    assert set(files("pair")) == {*BENCHMARK, "digits"}
    suite = read_suite("table1")
    assert list(suite.pairs) == PAPER
    assert suite.comparison


@pytest.mark.parametrize("name", BENCHMARK)
def test_a_pair_is_two_networks_and_the_students_learning_rate(name: str) -> None:
    content = read("pair", name)
    teacher, student = content.pop("teacher")["name"], content.pop("student")["name"]
    assert f"{teacher}_{student}" == name
    assert {teacher, student} <= set(MODELS.names())
    assert content == ({"trainer": {"lr": 0.01}} if student in SLOW_LEARNERS else {})


def test_what_is_chosen_with_a_pair_is_what_runs() -> None:
    small = compose(["pair=vgg13_MobileNetV2", "data=digits", "trainer=digits"]).config
    assert (small["trainer"]["epochs"], small["trainer"]["lr"], small["teacher_trainer"]["lr"]) == (150, 0.01, 0.05)
    large = compose(["pair=digits", "data=cifar10", "trainer=benchmark"]).config
    assert (large["data"]["name"], large["data"]["train_fraction"], large["negatives"]) == ("cifar10", 1.0, 16384)
    assert large["trainer"]["epochs"] == large["teacher_trainer"]["epochs"] == 240


def test_the_papers_experiment() -> None:
    config = compose(["experiment=table1", "pair=vgg13_MobileNetV2"]).config
    assert (config["data"]["name"], config["data"]["val_fraction"], config["data"]["train_fraction"]) == (
        "cifar100", 0.0, 1.0,
    )  # fmt: skip
    assert config["negatives"] == 16384
    assert config["teacher_trainer"] == read("trainer", "benchmark")
    assert config["trainer"] == {**read("trainer", "benchmark"), "lr": 0.01}


def test_the_papers_experiment_on_other_data_has_that_datas_setting() -> None:
    config = compose(["experiment=table1", "data=digits"]).config
    setting = read("setting", "digits")
    assert (config["data"]["name"], config["data"]["val_fraction"]) == ("digits", 0.0)
    assert config["data"]["train_fraction"] == setting["data"]["train_fraction"] < 1
    assert config["negatives"] == setting["negatives"]
    assert config["teacher_trainer"]["epochs"] == setting["teacher_trainer"]["epochs"]


@pytest.mark.parametrize("name", files("setting"))
def test_a_setting_is_that_of_a_data_set(name: str) -> None:
    assert name in files("data")


@pytest.mark.parametrize("name", files("table"))
def test_a_table_config_binds(name: str) -> None:
    assert read_spec(name).name == name


def test_every_file_is_looked_at() -> None:
    looked_at = {*PARTS, "trainer", "objective", "pair", "experiment", "setting", "ablation", "table"}
    groups = {path.parent.name for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS}
    assert groups <= looked_at
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"config", "launch", "transfer"}
