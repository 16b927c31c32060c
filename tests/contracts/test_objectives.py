"""What every registered objective must do."""

from __future__ import annotations

import dataclasses
import inspect
import io
import typing
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import CLASSES, MAPS, TRAIN_LABELS, TRAIN_SIZE, WIDTHS, tensors_of
from samples import batch as any_batch
from torch import Tensor

from graphkd import (
    BUILDERS,
    DISCREPANCIES,
    GNNS,
    OBJECTIVES,
    RELATIONS,
    DistillationBatch,
    NetworkOutput,
    Progress,
    UserError,
    WeightedSum,
)
from graphkd.contrast.options import BankOptions
from graphkd.engine.seeding import generator
from graphkd.objective import Objective

SMALL: dict[str, Any] = {"dim": 16, "negatives": 32}
"""Options that are set for all tests, where an objective has them."""
BANKS: list[dict[str, Any]] = [{"kind": "queue", "length": 50}, {"dtype": "bfloat16"}]
FULL_BATCH = 16
"""Large enough for every term of every objective."""
SAME_MAPS = {"fsp"}
"""Objectives that need maps of the same shapes in both networks."""
WITH_TERMS = [name for name in OBJECTIVES.names() if OBJECTIVES.factory(name).has_terms]


def variants(name: str) -> list[dict[str, Any]]:
    """The defaults, and each choice, flag and kind of bank by itself."""
    found: list[dict[str, Any]] = [{}]
    for option in OBJECTIVES.options(name).values():
        values: list[Any] = []
        if option.annotation is bool:
            values = [not option.default]
        elif typing.get_origin(option.annotation) is typing.Literal:
            values = [value for value in typing.get_args(option.annotation) if value != option.default]
        elif option.annotation is BankOptions:
            values = BANKS
        elif option.name == "views":
            values = [views for views in [("weak",), ("weak", "strong")] if views != option.default]
        elif option.name == "prune_unreliable":
            values = [value for value in (None, 0.5, 0.9) if value != option.default]
        found += [{option.name: value} for value in values]
    if takes_builder(name):
        builders = ["virtual", *(["bank_knn"] if "bank" in OBJECTIVES.options(name) else [])]
        found += [{"builder": builder, "prune_unreliable": prune} for builder in builders for prune in (None, 0.7)]
    return found


def takes_builder(name: str) -> bool:
    return "builder" in inspect.signature(OBJECTIVES.get(name)).parameters


def batch(name: str, size: int = FULL_BATCH, seed: int = 0, **options: Any) -> DistillationBatch:
    """A batch as an objective wants it."""
    may_see_two = "views" in OBJECTIVES.options(name) or takes_builder(name)
    views = ("weak", "strong") if may_see_two else OBJECTIVES.factory(name).views
    return any_batch(size, seed, views=views, same_maps=name in SAME_MAPS, **options)


def build(name: str, seed: int = 0, classes: int = CLASSES, device: str = "cpu", **options: Any) -> Objective:
    """An objective with the run-time arguments that it asks for, initialised from a seed and prepared."""
    wanted = inspect.signature(OBJECTIVES.get(name)).parameters
    torch.manual_seed(seed)
    runtime: dict[str, Any] = {
        "labels": TRAIN_LABELS % classes,
        "num_classes": classes,
        "builder": BUILDERS.build("knn", k=8) if "builder" not in options else BUILDERS.build(options.pop("builder")),
        "relation": RELATIONS.build("gram"),
        "discrepancy": DISCREPANCIES.build("l2"),
        **{f"{side}_dim": width for side, width in WIDTHS.items()},
        **{f"{side}_shapes": MAPS["student" if name in SAME_MAPS else side] for side in MAPS},
        **{f"{side}_gnn": GNNS.build("tag", in_dim=16, out_dim=16) for side in WIDTHS},
    }
    given = {key: value for key, value in {**runtime, **SMALL}.items() if key in wanted}
    objective = OBJECTIVES.build(name, **{**given, **options})
    prepare(objective, seed, device)
    objective.freeze()
    return objective


def prepare(objective: Objective, seed: int = 0, device: str = "cpu") -> None:
    objective.prepare(torch.device(device), lambda stream: generator(seed, stream, device=device))


def step(objective: Objective, batch: DistillationBatch) -> dict[str, Tensor]:
    """One step as a trainer does it, but for the optimizer; returns the terms."""
    terms = objective(batch)
    assert isinstance(terms, dict)
    if terms:
        torch.stack(list(terms.values())).sum().backward()
    objective.after_step()
    return terms


def check_terms(terms: dict[str, Tensor]) -> None:
    for name, term in terms.items():
        assert isinstance(name, str)
        assert term.shape == (), name
        assert term.dtype == torch.float32, name
        assert term.isfinite(), name


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """A state dict without its nesting, tensors copied."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{name}/{key}").items()}
    return {name: state.clone() if isinstance(state, Tensor) else state}


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


every_objective = pytest.mark.parametrize("name", WITH_TERMS)
every_variant = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
        for name in WITH_TERMS
        for options in variants(name)
    ],
)
with_stages = pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES.names() if OBJECTIVES.factory(name).stages is not Objective.stages]
)


@every_variant
def test_terms_are_finite_scalars_by_name(name: str, options: dict[str, Any]) -> None:
    objective = build(name, **options)
    for turn in range(3):
        terms = step(objective, batch(name, seed=turn))
        assert terms
        check_terms(terms)


@every_objective
@settings(max_examples=10)
@given(size=st.integers(1, 40), seed=st.integers(0, 100), classes=st.sampled_from([2, 5]))
def test_any_batch_from_one_sample_up(name: str, size: int, seed: int, classes: int) -> None:
    objective = build(name, classes=classes)
    some = batch(name, size, seed, classes=classes)
    check_terms(step(objective, some))
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors_of(some.student))


@every_variant
@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_batches(name: str, options: dict[str, Any], size: int) -> None:
    objective = build(name, **options)
    for turn in range(2):
        check_terms(step(objective, batch(name, size, turn)))


@every_objective
def test_one_sample_whose_last_map_is_a_pixel(name: str) -> None:
    """Batch norm has nothing to normalise by there."""
    small = {side: [*maps[:-1], (maps[-1][0], 1, 1)] for side, maps in MAPS.items()}
    with mock.patch.dict(MAPS, small):
        check_terms(step(build(name), batch(name, 1)))


@every_objective
@pytest.mark.parametrize("which", ["one class", "first samples", "last samples"])
def test_any_choice_of_samples(name: str, which: str) -> None:
    indices = {
        "one class": torch.arange(0, TRAIN_SIZE, CLASSES)[:FULL_BATCH],
        "first samples": torch.arange(FULL_BATCH),
        "last samples": torch.arange(TRAIN_SIZE - FULL_BATCH, TRAIN_SIZE),
    }[which]
    some = dataclasses.replace(batch(name), indices=indices, labels=TRAIN_LABELS[indices])
    objective = build(name)
    for _ in range(2):
        check_terms(step(objective, some))


@every_objective
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_outputs_give_finite_terms_and_gradients(name: str, scale: float) -> None:
    some = batch(name)
    for side in (some.student, some.teacher):
        assert side is not None
        for tensor in tensors_of(side):
            tensor.data.mul_(scale)
    check_terms(step(build(name), some))
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors_of(some.student))


DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda x: torch.full_like(x, 2.5),
    "zero": torch.zeros_like,
    "identical rows": lambda x: x[:1].expand_as(x),
    "some zero rows": lambda x: x * (torch.arange(len(x)) % 2).view(-1, *[1] * (x.dim() - 1)),
    "all 1e4": lambda x: torch.full_like(x, 1e4),
    "all -1e4": lambda x: torch.full_like(x, -1e4),
    "saturated": lambda x: 1e4 * x.sign(),
    "tiny": lambda x: 1e-30 * x,
}


@every_objective
@settings(max_examples=8)
@given(
    what=st.sampled_from(sorted(DEGENERATE)),
    sides=st.sampled_from([["student"], ["teacher"], ["student", "teacher"]]),
    size=st.sampled_from([1, 2, FULL_BATCH]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    one_class=st.booleans(),
)
def test_degenerate_outputs_of_either_side_give_finite_terms_and_gradients(
    name: str, what: str, sides: list[str], size: int, dtype: torch.dtype, one_class: bool
) -> None:
    some, objective = batch(name, size, dtype=dtype), build(name)
    for side in sides:
        for tensor in tensors_of(getattr(some, side)):
            tensor.data.copy_(DEGENERATE[what](tensor.data))
    if one_class:
        some = dataclasses.replace(some, labels=torch.zeros_like(some.labels))
    for _ in range(2):
        check_terms(step(objective, some))
    reached = [*tensors_of(some.student), *objective.parameters()]
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in reached)


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_give_finite_terms_in_float32(name: str, dtype: torch.dtype) -> None:
    some = batch(name, dtype=dtype)
    check_terms(step(build(name), some))
    assert any(tensor.grad is not None for tensor in tensors_of(some.student))


@every_objective
def test_under_autocast_terms_are_in_float32(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = build(name)(batch(name))
    check_terms(terms)
    expected = build(name)(batch(name))
    for part, term in terms.items():
        torch.testing.assert_close(term, expected[part], rtol=0.05, atol=0)


@every_objective
def test_at_the_end_of_the_training_too(name: str) -> None:
    some = dataclasses.replace(batch(name), progress=Progress(step=99, epoch=9, epochs=10))
    check_terms(step(build(name), some))


@every_variant
def test_gradient_reaches_the_student(name: str, options: dict[str, Any]) -> None:
    objective, some = build(name, **options), batch(name)
    step(objective, batch(name, seed=1))  # an empty bank has nothing to learn from
    terms = objective(some)
    for term in terms.values():
        assert term.requires_grad
    torch.stack(list(terms.values())).sum().backward()
    reached = [tensor.grad for tensor in tensors_of(some.student) if tensor.grad is not None]
    assert reached
    for gradient in reached:
        assert gradient.isfinite().all()
        assert gradient.any()


@every_variant
def test_every_parameter_of_a_side_that_is_trained_gets_gradient(name: str, options: dict[str, Any]) -> None:
    objective = build(name, **options)
    step(objective, batch(name))
    for parameter_name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        if options.get("teacher_gradient", True) or not parameter_name.startswith("teacher_"):
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


@every_variant
def test_the_outputs_are_not_changed_and_the_teacher_gets_no_gradient(name: str, options: dict[str, Any]) -> None:
    objective, some = build(name, **options), batch(name)
    assert some.teacher is not None
    held = [*tensors_of(some.student), *tensors_of(some.teacher), some.labels, some.indices]
    before = [tensor.detach().clone() for tensor in held]
    step(objective, some)
    assert all(torch.equal(a, b) for a, b in zip(before, held, strict=True))
    assert all(tensor.grad is None for tensor in tensors_of(some.teacher))


@every_variant
def test_seed_and_streams_alone_decide(name: str, options: dict[str, Any]) -> None:
    losses: list[list[dict[str, Tensor]]] = []
    for disturbance in range(2):
        objective = build(name, seed=1, **options)
        torch.manual_seed(disturbance)
        losses.append([step(objective, batch(name, seed=turn)) for turn in range(3)])
    assert all(equal(one, other) for one, other in zip(*losses, strict=True))


@every_objective
def test_torchs_own_generator_is_left_alone_by_a_step(name: str) -> None:
    objective = build(name)
    before = torch.get_rng_state()
    step(objective, batch(name))
    assert torch.equal(torch.get_rng_state(), before)


@every_variant
def test_a_saved_state_goes_on_where_it_was(name: str, options: dict[str, Any]) -> None:
    trained, fresh = build(name, seed=1, **options), build(name, seed=2, **options)
    for turn in range(2):
        step(trained, batch(name, seed=turn))
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert same_state(flat(fresh.state_dict()), flat(trained.state_dict()))
    for objective in (trained, fresh):
        prepare(objective, seed=3)
    for turn in range(2, 4):
        assert equal(step(trained, batch(name, seed=turn)), step(fresh, batch(name, seed=turn)))
    assert same_state(flat(fresh.state_dict()), flat(trained.state_dict()))


@every_variant
def test_after_a_step_no_parameter_has_changed_and_a_second_call_does_nothing(
    name: str, options: dict[str, Any]
) -> None:
    objective = build(name, **options)
    start = flat(objective.state_dict())
    objective.after_step()
    assert same_state(flat(objective.state_dict()), start)
    parameters = {key: value.detach().clone() for key, value in objective.named_parameters()}
    objective(batch(name))
    objective.after_step()
    once = flat(objective.state_dict())
    objective.after_step()
    assert same_state(flat(objective.state_dict()), once)
    assert all(torch.equal(value, parameters[key]) for key, value in objective.named_parameters())


@every_objective
def test_a_teacher_is_there_or_not_needed(name: str) -> None:
    alone = dataclasses.replace(batch(name), teacher=None)
    objective = build(name)
    if objective.needs_teacher:
        with pytest.raises(UserError, match="needs a teacher"):
            objective(alone)
    else:
        assert equal(objective(alone), objective(batch(name)))


@every_objective
def test_it_tells_what_it_needs(name: str) -> None:
    wanted = inspect.signature(OBJECTIVES.get(name)).parameters
    defaults = OBJECTIVES.bind(name, {}).all
    factory: Any = OBJECTIVES.get(name)
    assert factory.builds_graphs(defaults) == ("builder" in wanted)
    encodes = factory.graph_dim(defaults) is not None
    assert encodes == ({"student_gnn", "teacher_gnn"} <= wanted.keys())
    if encodes:
        assert "builder" in wanted
        assert factory.graph_dim(defaults) >= 1
    assert OBJECTIVES.summary(name).endswith(".")


@every_variant
def test_it_sees_its_own_views_alone(name: str, options: dict[str, Any]) -> None:
    more = any_batch(FULL_BATCH, views=("strong", *OBJECTIVES.factory("sskd").views), same_maps=name in SAME_MAPS)
    objective = build(name, **options)
    together = WeightedSum({"term": (objective, 1.0)})(more).raw
    alone = build(name, **options)(more.select(objective.views))
    assert [term.item() for term in together.values()] == [term.item() for term in alone.values()]


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_without_terms_teaches_in_a_stage(name: str) -> None:
    objective = build(name)
    if not objective.has_terms:
        assert objective.stages()
        assert objective(batch(name)) == {}


@with_stages
@settings(max_examples=8)
@given(size=st.integers(1, 20), seed=st.integers(0, 100), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_a_stage_has_a_finite_loss_and_trains_what_it_says(name: str, size: int, seed: int, scale: float) -> None:
    objective, some = build(name), batch(name, size, seed)
    objective.requires_grad_()  # as before freeze()
    for side in (some.student, some.teacher):
        assert side is not None
        for tensor in tensors_of(side):
            tensor.data.mul_(scale)
    for stage in objective.stages():
        assert stage.epochs >= 1
        loss = stage.loss(some)
        check_terms({stage.name: loss})
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for module in stage.modules for parameter in module.parameters()]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        gradients = [tensor.grad for tensor in tensors_of(some.student) if tensor.grad is not None]
        assert bool(gradients) == stage.trains_student
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert some.teacher is not None
        assert all(tensor.grad is None for tensor in tensors_of(some.teacher))


@with_stages
def test_what_a_stage_trained_for_good_is_frozen_afterwards(name: str) -> None:
    objective = build(name)
    stages = [p for stage in objective.stages() for module in stage.modules for p in module.parameters()]
    assert not any(parameter.requires_grad for parameter in stages)
    trained = [parameter for group in objective.parameter_groups() for parameter in group["params"]]
    assert len(trained) == sum(parameter.requires_grad for parameter in objective.parameters())


@every_variant
@pytest.mark.gpu
def test_on_a_gpu_no_step_waits_for_the_host(name: str, options: dict[str, Any]) -> None:
    objective = build(name, device="cuda", **options)
    batches = [on_gpu(batch(name, seed=turn)) for turn in range(4)]
    for some in batches[:2]:  # whatever CUDA sets up at first use; CRD fixes Z once a queue holds rows
        step(objective, some)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [step(objective, some) for some in batches[2:]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for terms in losses:
        check_terms(terms)


def on_gpu(some: DistillationBatch) -> DistillationBatch:
    assert some.teacher is not None
    return dataclasses.replace(
        some,
        student=output_on_gpu(some.student, has_gradient=True),
        teacher=output_on_gpu(some.teacher, has_gradient=False),
        labels=some.labels.cuda(),
        indices=some.indices.cuda(),
    )


def output_on_gpu(output: NetworkOutput, has_gradient: bool) -> NetworkOutput:
    moved = [tensor.detach().cuda().requires_grad_(has_gradient) for tensor in tensors_of(output)]
    logits, embedding, *maps = moved
    half = len(output.features)
    return NetworkOutput(logits, maps[:half], embedding, preactivations=maps[half:])
