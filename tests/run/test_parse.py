from __future__ import annotations

import dataclasses
import glob
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from graphkd import BUILDERS, DATASETS, DISCREPANCIES, GNNS, MODELS, OBJECTIVES, RELATIONS, UserError
from graphkd.identity import identity
from graphkd.objective.hkd import HKD
from graphkd.registry import Registry
from graphkd.run import StudentSpec, parse, parse_teacher
from graphkd.run.build import build_network
from graphkd.run.parse import absolute_paths, parse_student
from graphkd.run.part import Part

Config = Callable[..., dict[str, Any]]
MINIMAL = {
    "objective": {"ce": {"name": "ce"}},
    "student": {"name": "resnet8"},
    "data": {"name": "digits"},
    "trainer": {"epochs": 3},
}
KNOWN = "948d10d8aaca9ed12159cd81e87dca7c6af43cd1aa81a961dd04016058ad51b0"
NOT_COUNTED = {
    "seed", "results", "study", "variant", "run_dir", "force", "plugins", "negatives", "bank.kind", "bank.length",
    "bank.dtype", "bank.on_host", "builder.name", "gnn.name", "trainer.accelerator", "trainer.threads",
    "trainer.eval_batch_size", "teacher_trainer.accelerator", "teacher_trainer.threads",
    "teacher_trainer.eval_batch_size", "gnn.engine", "objective.hkd.bank.on_host", "objective.hkd.bank.sharded",
    "bank.sharded", "trainer.devices", "trainer.nodes", "trainer.strategy", "trainer.checkpoint_every",
    "teacher_trainer.devices", "teacher_trainer.nodes", "teacher_trainer.strategy", "teacher_trainer.checkpoint_every",
    "trainer.diagnostics", "teacher_trainer.diagnostics",
}  # fmt: skip
"""What is no part of a run's identity, or, of the names, what another test changes."""
OTHER = {
    "trainer.accelerator": "cpu",
    "teacher_trainer.accelerator": "cpu",
    "trainer.matmul_precision": "high",
    "teacher_trainer.matmul_precision": "high",
    "trainer.decay_at": [0.5],
    "teacher_trainer.decay_at": [0.5],
    "builder.metric": "cosine",
    "builder.input": "embedding",
    "gnn.engine": "dense",
    "teacher_gnn": "shared",
    "student.name": "resnet14",
    "teacher.name": "resnet14",
    "student.widths": [4, 4, 4, 4],
    "teacher.widths": [4, 4, 4, 4],
    "objective.hkd.sampler": "explicit",
    "objective.hkd.negatives_from": "other",
    "objective.hkd.builder": {"name": "complete"},
    "objective.hkd.gnn": {"name": "gcn"},
    "objective.hkd.teacher_gnn": "shared",
    "objective.hkd.bank.dtype": "float16",
    "objective.ce.name": ...,
    "objective.kd.name": ...,
    "objective.hkd.name": ...,
    "data.name": ...,
    "builder.name": ...,
    "gnn.name": ...,
    "objective.hkd.bank.kind": ...,
    "objective.hkd.bank.length": ...,
    "bank.kind": "queue",
    "bank.length": 5,
    "bank.dtype": "float16",
    "results": "elsewhere",
    "study": "table1",
    "variant": "mine",
    "run_dir": "here",
    "plugins": ["json"],
    "teacher.checkpoint": ...,
    "student.checkpoint": ...,
    "student.drop_head": ...,
    "teacher.input": {"size": 16},
    "data.classes": [0, 1, 2],
    "trainer.optimizer": "adamw",
    "trainer.schedule": "cosine",
    "trainer.clip_norm": 1.0,
    "trainer.ema": 0.9,
    "trainer.precision": "bf16",
    "trainer.teacher_precision": "bf16",
    "trainer.strategy": "ddp",
    "trainer.non_finite": "skip",
    "teacher_trainer.non_finite": "skip",
    "objective.hkd.graph_scope": "local",
    "objective.hkd.graphs_from": "teacher",
    "objective.ce.views": ["weak", "strong"],
    "objective.kd.views": ["strong"],
    "objective.hkd.prune_unreliable": 0.5,
    **{f"objective.{term}.schedule": [[0.0, 0.5]] for term in ("ce", "kd", "hkd")},
    "trainer.checkpoint_every": "7 steps",
    "teacher_trainer.optimizer": "adamw",
    "teacher_trainer.schedule": "cosine",
    "teacher_trainer.clip_norm": 1.0,
    "teacher_trainer.ema": 0.9,
    "teacher_trainer.precision": "bf16",
    "teacher_trainer.teacher_precision": "bf16",
    "teacher_trainer.strategy": "ddp",
    "teacher_trainer.checkpoint_every": "7 steps",
}
"""Other values where no rule makes one; `...` where another test changes it."""


def leaves(config: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{inside}{key}.")
        else:
            yield f"{inside}{key}", value


def other(path: str, value: Any) -> Any:
    """Another valid value of an option."""
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    assert isinstance(value, (int, float)), f"{path}: give another valid value in OTHER"
    return value + 1 if isinstance(value, int) else value / 2 + 0.11


def built_hkd(spec: StudentSpec, name: str = "hkd") -> HKD:
    dataset = spec.data.build()
    assert spec.teacher is not None
    objective = spec.build(dataset).objective
    hkd = objective.objectives[name]
    assert isinstance(hkd, HKD)
    return hkd


# Which run is which


def test_just_what_changes_the_result_counts(tiny_config: Config) -> None:
    config = tiny_config()
    original = parse(config).identity
    for path, value in leaves(config):
        changed = other(path, value)
        if changed is ...:
            continue
        same = parse(tiny_config({path: changed})).identity == original
        assert same == (path in NOT_COUNTED), f"{path}: {value!r} -> {changed!r}"


@pytest.mark.parametrize(
    "changes",
    [
        {"builder": {"name": "complete"}},
        {"gnn": {"name": "gcn"}},
        {"objective.hkd": {"name": "kd"}},
        {"objective.hkd.bank": {"kind": "queue", "length": 50}},
        {"objective.hkd.bank": {"kind": "queue", "length": 51}},
        {"objective.kd": ...},
        {"objective.kd.weight": {"kd": 0.5}},
        {"objective.kd.schedule": [[0.0, 0.0], [0.5, 1.0]]},
    ],
)
def test_other_parts_are_other_runs(tiny_config: Config, changes: dict[str, Any]) -> None:
    assert parse(tiny_config(changes)).identity != parse(tiny_config()).identity


def test_a_default_left_out_is_the_same_run(tiny_config: Config) -> None:
    bare = {
        "builder": {"name": "knn"},
        "gnn": {"name": "tag"},
        "objective.ce": {"name": "ce"},
        "objective.kd": {"name": "kd"},
        "data": {"name": "digits", "train_fraction": 0.1},
        "trainer": {"epochs": 1},
        "teacher_trainer": {"epochs": 1},
    }
    assert parse(tiny_config(bare)).identity == parse(tiny_config()).identity


def test_a_name_alone_stands_for_a_part(tiny_config: Config) -> None:
    bare = {"builder": "knn", "gnn": "tag", "objective.ce": "ce", "objective.kd": "kd", "student": "resnet8"}
    full = parse(tiny_config({"student": {"name": "resnet8"}}))
    assert parse(tiny_config(bare)).identity == full.identity
    assert full.identity != parse(tiny_config()).identity, "its widths are others"


def test_an_integer_for_a_number_is_the_same_run(tiny_config: Config) -> None:
    same = {"objective.kd.temperature": 4, "objective.hkd.weight": 3, "trainer.decay_at": (0.625, 0.75, 0.875)}
    assert parse(tiny_config(same)).identity == parse(tiny_config()).identity


def test_the_order_of_keys_and_the_state_of_unused_nodes_do_not_count(tiny_config: Config) -> None:
    config = tiny_config(MINIMAL)
    backwards = dict(reversed(config.items()))
    unused = tiny_config({**MINIMAL, "builder": {"name": "complete"}, "gnn": "gat", "teacher.seed": 5, "negatives": 7})
    assert parse(config).identity == parse(backwards).identity == parse(unused).identity


def test_a_known_run_keeps_its_identity(tiny_config: Config) -> None:
    """Who changes this makes every user's finished runs unknown."""
    assert parse(tiny_config(MINIMAL)).identity == KNOWN


def test_a_teachers_file_counts_by_its_content_alone(tiny_config: Config, tmp_path: Path) -> None:
    first, copied, changed = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    first.write_bytes(b"weights")
    copied.write_bytes(b"weights")
    changed.write_bytes(b"others")
    identities = [parse(tiny_config({"teacher.checkpoint": str(path)})).identity for path in (first, copied, changed)]
    assert identities[0] == identities[1]
    assert len({*identities, parse(tiny_config()).identity}) == 3


def test_with_a_teachers_file_its_network_counts_too(tiny_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "t.pth"
    file.write_bytes(b"weights")
    base = {"teacher.checkpoint": str(file), "objective": {"at": {"name": "at"}}}
    teachers: list[dict[str, Any]] = [
        {"name": "torchvision/resnet18", "features": ["layer1", "layer2", "layer3", "layer4"]},
        {"name": "torchvision/resnet18", "features": ["layer1", "layer3"]},
        {"name": "torchvision/resnet18"},
        {"name": "torchvision/resnet34"},
        {"name": "torchvision/resnet34", "input": {"size": 64}},
        {"name": "torchvision/resnet34", "input": {"size": 32}},
        {"name": "resnet8"},
        {"name": "resnet8", "widths": [2, 2, 4, 4]},
    ]
    plans = [parse(tiny_config({**base, "teacher": {**node, "checkpoint": str(file)}})) for node in teachers]
    assert len({spec.identity for spec in plans}) == len(teachers)
    unused = parse(tiny_config({**base, "teacher.seed": 5, "teacher_trainer.epochs": 9, "teacher.train_fraction": 0.5}))
    assert unused.identity == parse(tiny_config(base)).identity, "a file's weights need no seed and no training"


def test_where_a_student_starts_counts_by_the_files_content(tiny_config: Config, tmp_path: Path) -> None:
    for name, content in {"a.pth": b"weights", "b.pth": b"weights", "c.pth": b"others"}.items():
        (tmp_path / name).write_bytes(content)
    first, copied, other, none = (
        parse(tiny_config({"student.checkpoint": path and str(tmp_path / path)})).identity
        for path in ("a.pth", "b.pth", "c.pth", None)
    )
    assert first == copied
    assert len({first, other, none}) == 3
    assert none == parse(tiny_config()).identity
    whole, headless = (
        parse(tiny_config({"student.checkpoint": str(tmp_path / "a.pth"), "student.drop_head": drop_head})).identity
        for drop_head in (False, True)
    )
    assert whole == first != headless
    with pytest.raises(UserError, match=r"^student\.drop_head=true needs student\.checkpoint"):
        parse(tiny_config({"student.drop_head": True}))


def changed(value: Any, annotation: Any) -> Any:
    """Another value of an option's type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return changed(value, next(kind for kind in arguments if kind is not type(None)))
    if origin is Literal:
        return next(choice for choice in arguments if choice != value)
    if origin is not None:
        items = value or [None] * len([kind for kind in arguments if kind is not ...])
        return [changed(item, arguments[0]) for item in items]
    if dataclasses.is_dataclass(annotation):
        return {"kind": "queue"}
    if annotation is bool:
        return not value
    return f"{value or ''}x" if annotation is str else (value or 0) + 1


@pytest.mark.parametrize(
    "registry", [BUILDERS, DATASETS, DISCREPANCIES, GNNS, MODELS, OBJECTIVES, RELATIONS], ids=lambda each: each.kind
)
def test_every_option_of_every_part_counts_unless_it_says_otherwise(registry: Registry[Any]) -> None:
    names = [*registry.names(), *(f"{family}/any" for family in registry.families())]
    for name in names:
        known, ignored = registry.options(name), getattr(registry.factory(name), "NOT_IDENTITY", frozenset())
        needed = {key: changed(None, option.annotation) for key, option in known.items() if option.required}
        original = identity_of(registry, name, needed)
        for key, option in known.items():
            default = needed.get(key) if option.required else option.default
            other = identity_of(registry, name, {**needed, key: changed(default, option.annotation)})
            assert (other == original) == (key in ignored), f"{registry.kind} '{name}': {key}"


def identity_of(registry: Registry[Any], name: str, options: dict[str, Any]) -> str:
    """Of a part whose files, if it has any, stay the same."""
    part = Part(registry, name, registry.bind(name, options))
    factory = registry.factory(name)
    with pytest.MonkeyPatch.context() as patch:
        if registry is DATASETS:
            patch.setattr(factory, "fingerprint", lambda _: {})
        return identity(part.identity)


def test_the_teachers_seed_counts_in_a_runs_identity_but_not_in_the_teachers(tiny_config: Config) -> None:
    configs = [tiny_config({"teacher.seed": seed}) for seed in (0, 1)]
    first, second = (parse_teacher(config) for config in configs)
    assert first.identity == second.identity
    assert first.folder != second.folder
    assert parse(configs[0]).identity == parse(tiny_config()).identity, "it is 0 by default"
    assert parse(configs[1]).identity != parse(configs[0]).identity


def test_the_teacher_does_not_depend_on_the_students_data_or_training(tiny_config: Config) -> None:
    changes = {"data.train_fraction": 0.5, "trainer.lr": 0.2, "student.name": "resnet14", "seed": 3}
    assert parse_teacher(tiny_config(changes)).identity == parse_teacher(tiny_config()).identity
    assert parse_teacher(tiny_config({"data.padding": 2})).identity != parse_teacher(tiny_config()).identity


# Where a run is kept, and its name


def test_a_run_is_kept_by_study_variant_identity_and_seed(tiny_config: Config, tmp_path: Path) -> None:
    spec = parse(tiny_config({"seed": 4}))
    expected = tmp_path / "results" / "adhoc" / "ce+kd+hkd-knn-tag" / spec.identity[:12] / "seed-4"
    assert spec.folder == expected
    assert parse(tiny_config({"variant": "mine", "study": "s"})).folder.parts[-4:-2] == ("s", "mine")
    assert parse(tiny_config({"run_dir": str(tmp_path / "out")})).folder == tmp_path / "out"


def test_a_variant_is_named_after_what_it_uses(tiny_config: Config) -> None:
    assert parse(tiny_config(MINIMAL)).variant == "ce"
    own = tiny_config({"objective.hkd.builder": "complete", "objective.hkd.gnn": "gat"})
    assert parse(own).variant == "ce+kd+hkd-complete-gat"
    long = {f"term_number_{number}": {"name": "ce"} for number in range(60)}
    assert len(parse(tiny_config({"objective": long})).variant) <= 200


# Graph parts


def test_each_term_may_have_a_graph_of_its_own(tiny_config: Config) -> None:
    hkd = tiny_config()["objective"]["hkd"]
    config = tiny_config({
        "objective": {
            "near": {**hkd, "builder": {"name": "threshold", "tau": 0.7}, "gnn": {"name": "gat", "heads": 2}},
            "far": hkd,
        }
    })  # fmt: skip
    spec = parse(config)
    assert spec.unused_nodes == []
    near, far = (built_hkd(spec, name) for name in ("near", "far"))
    assert (type(near.builder).__name__, type(far.builder).__name__) == ("Threshold", "KNN")
    assert near.student_gnn is not None
    assert far.student_gnn is not None
    assert type(near.student_gnn) is not type(far.student_gnn)
    assert parse(config).identity != parse(tiny_config({"objective": {"near": hkd, "far": hkd}})).identity


def test_a_term_of_the_same_class_twice_starts_differently(tiny_config: Config) -> None:
    hkd = tiny_config()["objective"]["hkd"]
    spec = parse(tiny_config({"objective": {"a": hkd, "b": hkd}}))
    assert not torch.equal(built_hkd(spec, "a").student_head.weight, built_hkd(spec, "b").student_head.weight)


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, []),
        (MINIMAL, ["builder", "gnn", "teacher_gnn", "negatives", "bank"]),
        ({"objective.hkd.negatives": 5}, ["negatives"]),
        ({"objective.hkd.holistic": False}, ["builder", "gnn", "teacher_gnn"]),
        ({"objective.hkd.builder": "complete"}, ["builder"]),
        ({"objective.hkd.gnn": "gat", "objective.hkd.teacher_gnn": "shared"}, ["gnn", "teacher_gnn"]),
    ],
)
def test_says_which_nodes_nothing_uses(tiny_config: Config, changes: dict[str, Any], unused: list[str]) -> None:
    assert parse(tiny_config(changes)).unused_nodes == unused


def test_the_teachers_encoder_is_its_own_shared_or_another(tiny_config: Config) -> None:
    forms = {"null": None, "shared": "shared", "own": {"name": "gcn"}}
    plans = {form: parse(tiny_config({"teacher_gnn": value})) for form, value in forms.items()}
    assert len({spec.identity for spec in plans.values()}) == 3
    own, shared, another = (built_hkd(plans[form]) for form in ("null", "shared", "own"))
    assert own.teacher_gnn is not own.student_gnn
    assert type(own.teacher_gnn) is type(own.student_gnn)
    states = [gnn.state_dict() for gnn in (own.student_gnn, own.teacher_gnn) if gnn is not None]
    assert any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()), "weights of its own"
    assert shared.teacher_gnn is shared.student_gnn
    assert type(another.teacher_gnn) is not type(another.student_gnn)


# Randomness


def test_variants_of_a_seed_share_what_they_have_in_common(tiny_config: Config) -> None:
    hkd_alone = tiny_config()["objective"]["hkd"]
    plans = [
        parse(tiny_config(changes)) for changes in ({}, {"objective": {"hkd": hkd_alone}}, {"builder": "complete"})
    ]
    students, heads = [], []
    for spec in plans:
        torch.rand(5)  # whatever was drawn before
        students.append(spec.network(spec.data.build()).state_dict())
        heads.append(built_hkd(spec).student_head.weight)
    assert all(torch.equal(students[0][name], other[name]) for other in students[1:] for name in students[0])
    assert all(torch.equal(heads[0], other) for other in heads[1:])


def test_another_seed_starts_elsewhere(tiny_config: Config) -> None:
    first, second = (parse(tiny_config({"seed": seed})) for seed in (0, 1))
    dataset = first.data.build()
    pairs = zip(first.network(dataset).parameters(), second.network(dataset).parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(built_hkd(first).student_head.weight, built_hkd(second).student_head.weight)


def test_the_teacher_starts_from_its_own_seed(tiny_config: Config) -> None:
    def weights(changes: dict[str, Any]) -> list[torch.Tensor]:
        teacher = parse_teacher(tiny_config(changes))
        return [parameter.detach() for parameter in teacher.network(teacher.data.build()).parameters()]

    original = weights({})
    assert all(torch.equal(a, b) for a, b in zip(original, weights({"seed": 9}), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(original, weights({"teacher.seed": 9}), strict=True))


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bilder": {"name": "knn"}}, "no node 'bilder'; did you mean 'builder'?"),
        ({"student.width": [1, 2]}, "model 'resnet8' has no option 'width'; did you mean 'widths'?"),
        ({"teacher.sed": 1}, "model 'resnet8' has no option 'sed'"),
        (
            {"data.train_fracton": 0.1},
            "data set 'digits' has no option 'train_fracton'; did you mean 'train_fraction'?",
        ),
        ({"trainer.epoch": 1}, "trainer has no option 'epoch'; did you mean 'epochs'?"),
        ({"teacher_trainer.epoch": 1}, "teacher_trainer has no option 'epoch'; did you mean 'epochs'?"),
        ({"builder.kk": 1}, "graph builder 'knn' has no option 'kk'; did you mean 'k'?"),
        ({"gnn.hop": 1}, "graph encoder 'tag' has no option 'hop'; did you mean 'hops'?"),
        ({"teacher_gnn": {"name": "tag", "hop": 1}}, "graph encoder 'tag' has no option 'hop'"),
        ({"objective.kd.temprature": 1}, "objective 'kd' has no option 'temprature'; did you mean 'temperature'?"),
        ({"objective.hkd.bank.knd": 1}, "has no option 'knd'; did you mean 'kind'?"),
        ({"objective.hkd.builder": {"name": "knn", "kk": 1}}, "graph builder 'knn' has no option 'kk'"),
        ({"objective.hkd.gnn": {"name": "gat", "head": 1}}, "graph encoder 'gat' has no option 'head'"),
        ({"student.name": "resnet9"}, "no model 'resnet9'; did you mean 'resnet8'?"),
        ({"objective.kd.name": "kdd"}, "no objective 'kdd'; did you mean 'kd'?"),
        ({**MINIMAL, "builder.kk": 1}, "graph builder 'knn' has no option 'kk'"),
        ({**MINIMAL, "gnn.hop": 1}, "graph encoder 'tag' has no option 'hop'"),
        ({**MINIMAL, "teacher": 3}, "teacher is 3"),
        ({**MINIMAL, "teacher_trainer.epoch": 1}, "teacher_trainer has no option 'epoch'"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(tiny_config: Config, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(tiny_config(changes))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": ...}, "lacks the node 'builder'"),
        ({"trainer": ...}, "lacks the node 'trainer'"),
        ({"trainer": 5}, "trainer is 5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "0"}, "seed is '0'"),
        ({"seed": True}, "seed is True"),
        ({"force": "yes"}, "force is 'yes'"),
        ({"plugins": "mine"}, "plugins is 'mine'"),
        ({"plugins": ["no_such_module_here"]}, "plugin 'no_such_module_here' failed at import"),
        ({"study": "a/b"}, "study is 'a/b', but must be a plain name"),
        ({"study": ".."}, "study is '..'"),
        ({"study": ""}, "study is ''"),
        ({"study": "tables"}, "results has folders of another use by the names reference, tables, teachers"),
        ({"study": "reference"}, "study is 'reference', but"),
        ({"study": "teachers"}, "study is 'teachers', but"),
        ({"variant": "../../elsewhere"}, "variant is '../../elsewhere'"),
        ({"variant": "a\nb"}, "variant is 'a\\nb'"),
        ({"variant": "x" * 300}, "variant is longer than 200 bytes"),
        ({"objective": {"/tmp/x": "ce"}}, "the name of a term in objective is '/tmp/x'"),
        ({"objective": {}}, "objective is {}"),
        ({"objective": None}, "objective is None"),
        ({"objective": "ce"}, "objective is 'ce'"),
        ({"objective.ce": None}, "objective.ce is None"),
        ({"objective.ce": {"weight": 1.0}}, "objective.ce needs a name"),
        ({"objective.ce.weight": "much"}, "objective.ce.weight is 'much'"),
        ({"objective.ce.weight": math.nan}, "objective.ce.weight is nan, but must be finite"),
        ({"objective.hkd.schedule": "late"}, "objective.hkd.schedule is 'late', but must be a list"),
        ({"objective.hkd.schedule": [[0.5]]}, "objective.hkd.schedule is [[0.5]], but must be [[share"),
        ({"objective.hkd.schedule": [[2, 1]]}, "objective.hkd.schedule: the schedule's shares"),
        ({"objective.hkd.weight": {"individual": "much"}}, "objective.hkd.weight.individual is 'much'"),
        ({"trainer.lr": math.inf}, "trainer.lr is inf, but must be finite"),
        ({"trainer.decay_at": [math.nan]}, "trainer.decay_at is nan"),
        ({"trainer.epochs": 0}, "epochs is 0"),
        ({"results": ""}, "results is ''"),
        ({"run_dir": ""}, "run_dir is ''"),
        ({"run_dir": "."}, "run_dir is '.', but must not be the current folder"),
        ({"run_dir": "/"}, "run_dir is '/'"),
        ({"teacher.checkpoint": "nowhere.pth"}, "teacher.checkpoint: there is no file nowhere.pth"),
        ({"teacher.checkpoint": 5}, "teacher.checkpoint is 5"),
        ({"teacher.seed": -1}, "teacher.seed is -1"),
        ({"teacher.seed": 0.5}, "teacher.seed is 0.5"),
        ({"teacher.train_fraction": 0}, "teacher.train_fraction is 0"),
        ({"teacher.train_fraction": 1.5}, "teacher.train_fraction is 1.5"),
        ({"student": None}, "student is None"),
        ({"student": {"widths": [2, 2, 4, 4]}}, "student needs a name"),
        ({"student.num_classes": 10}, "student: 'num_classes' is not an option"),
        ({"builder": None}, "builder is None"),
        ({"objective.hkd.builder": "complete", "objective.hkd.holistic": False}, "objective.hkd.builder is given"),
        ({"objective.hkd.student_dim": 4}, "objective.hkd: 'student_dim' is not an option"),
        ({"objective.hkd.bank": 5}, "option 'bank' is 5"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_told(tiny_config: Config, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(tiny_config(changes))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_term_that_takes_no_graph_has_no_such_option(tiny_config: Config) -> None:
    with pytest.raises(UserError, match="'builder' is not an option"):
        parse(tiny_config({"objective.kd.builder": "knn"}))


def test_a_data_set_without_fractions_serves_a_teacher_all_the_same(
    tiny_config: Config, plugin: Callable[[str, str], Path]
) -> None:
    plugin(
        "whole_digits",
        """
        from graphkd import DATASETS
        from graphkd.data.digits import Digits

        @DATASETS.register("whole_digits")
        class WholeDigits(Digits):
            def __init__(self, padding: int = 1) -> None:
                super().__init__(padding=padding)
        """,
    )
    changes = {"data": "whole_digits", "plugins": ["whole_digits"]}
    assert parse(tiny_config({**changes, "teacher.train_fraction": 1.0})).teacher is not None
    with pytest.raises(UserError, match="'whole_digits' has no such option"):
        parse(tiny_config(changes))


# What others bring


def test_an_objective_may_have_several_names_with_presets(
    tiny_config: Config, plugin: Callable[[str, str], Path]
) -> None:
    plugin(
        "hot_kd",
        """
        from graphkd import OBJECTIVES
        from graphkd.objective.kd import KD

        OBJECTIVES.register("hot_kd", temperature=20.0)(KD)
        """,
    )
    hot = tiny_config({"plugins": ["hot_kd"], "objective": {"kd": "hot_kd"}})
    spec = parse(hot)
    assert spec.teacher is not None
    assert spec.terms["kd"].part.document == {"name": "hot_kd", "temperature": 20.0, "views": ("weak",)}
    dataset = spec.data.build()
    objective = spec.build(dataset).objective
    assert objective.objectives["kd"].temperature == 20.0


def test_a_part_may_come_from_elsewhere(tiny_config: Config, plugin: Callable[[str, str], Path]) -> None:
    assert "mutual" not in BUILDERS.names()
    plugin(
        "mutual_builder",
        """
        from graphkd import BUILDERS
        from graphkd.builder.knn import KNN

        @BUILDERS.register("mutual")
        class Mutual(KNN):
            "Keeps its parent's edges."
        """,
    )
    spec = parse(tiny_config({"plugins": ["mutual_builder"], "builder": {"name": "mutual", "k": 3}}))
    assert type(built_hkd(spec).builder).__name__ == "Mutual"
    assert spec.variant == "ce+kd+hkd-mutual-tag"


# The student alone


def test_a_student_can_be_built_whatever_else_the_config_holds(tiny_config: Config, tmp_path: Path) -> None:
    broken = tiny_config({"objective.hkd.name": "forgotten", "teacher.checkpoint": "gone.pth", "run_dir": "."})
    part, data = parse_student(broken)
    dataset = data.build()
    student = build_network(part, dataset.info, broken["seed"])
    spec = parse(tiny_config())
    expected = spec.network(spec.data.build()).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in student.state_dict().items())
    assert len(dataset.train_labels) == 109
    with pytest.raises(UserError, match="no model"):
        parse_student(tiny_config({"student": "resnet9"}))


@pytest.mark.parametrize(
    ("name", "revision"), [("reviewkd", 2), ("ab", 2), ("fsp", 2), ("sskd", 2), ("at", None), ("kd", None)]
)
def test_a_revision_counts_in_the_identity_from_the_second_on(
    tiny_config: Callable[..., dict[str, Any]], name: str, revision: int | None
) -> None:
    identity = parse(tiny_config({"objective": {name: name}})).terms[name].part.identity
    assert identity.get("revision") == revision


# Paths


def test_the_paths_in_a_config_mean_the_same_from_anywhere(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a [1] folder"
    (place / "photos" / "train").mkdir(parents=True)
    for name in ("t.pth", "train-0.parquet", "train-1.parquet"):
        (place / name).write_bytes(b"weights")
    monkeypatch.chdir(place)
    folder = {"name": "folder", "root": "photos", "train": "train", "cache": True}
    changes = {"teacher.checkpoint": "t.pth", "student.checkpoint": "./t.pth", "data": folder}
    found = absolute_paths(tiny_config(changes))
    assert found["teacher"]["checkpoint"] == found["student"]["checkpoint"] == str(place / "t.pth")
    assert found["data"] == {**folder, "root": str(place / "photos")}
    assert absolute_paths(tiny_config({"results": "here"}))["results"] == str(place / "here")
    assert absolute_paths(found) == found
    parquet = {"name": "parquet", "train": ["train-*.parquet", "train-0.parquet"], "test": None, "cache": "kept"}
    patterns = absolute_paths(tiny_config({"data": parquet}))["data"]
    assert patterns["train"][1] == str(place / "train-0.parquet")
    monkeypatch.chdir(tmp_path)
    assert sorted(glob.glob(patterns["train"][0])) == [str(place / f"train-{n}.parquet") for n in (0, 1)]
    assert patterns["test"] is None


def test_every_option_that_is_a_path_is_known_and_does_not_count() -> None:
    for name in DATASETS.names():
        factory = DATASETS.factory(name)
        assert DATASETS.options(name).keys() >= factory.PATHS
        assert getattr(factory, "NOT_IDENTITY", frozenset()) >= factory.PATHS
