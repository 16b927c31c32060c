"""The rehearsal of a first step before a teacher is trained."""

from __future__ import annotations

import builtins
import gc
import itertools
import multiprocessing
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from graphkd import BUILDERS, UserError
from graphkd.engine.guard import NotFiniteError
from graphkd.run import check_parts, parse, parse_teacher, run
from graphkd.run.rehearsal import rehearse, waits_for_teacher
from graphkd.run.spec import Built, StudentSpec

Config = Callable[..., dict[str, Any]]
Plugin = Callable[[str, str], Path]
BROKEN = """
    from graphkd.builder import BUILDERS, GraphBuilder

    @BUILDERS.register("broken")
    class Broken(GraphBuilder):
        "Fails at the first batch."

        def build(self, nodes):
            raise {error}
"""


def broken(plugin: Plugin, config: Config, error: str, **changes: Any) -> dict[str, Any]:
    """A run whose builder raises an error at the first batch."""
    plugin("broken_parts", BROKEN.format(error=error))
    return config({"plugins": ["broken_parts"], "builder": {"name": "broken"}, **changes})


@pytest.mark.parametrize("error", ["RuntimeError('no edges')", "KeyError(7)", "TypeError()"])
def test_a_builder_that_fails_is_told_before_the_teacher_is_trained(
    tiny_config: Config, plugin: Plugin, error: str
) -> None:
    config = broken(plugin, tiny_config, error)
    name = error.split("(")[0]
    with pytest.raises(getattr(builtins, name)):
        run(parse(config))
    with pytest.raises(RuntimeError, match=rf"^a variant: {name}.* in broken_parts\.py, line 9$"):
        check_parts([("a variant", parse(config))])
    assert not Path(config["results"]).exists()


@pytest.mark.parametrize("stages", [{"ab": {"name": "ab"}}, {"ft": {"name": "ft", "stage_epochs": 1}}])
def test_what_fails_after_a_stage_is_told_too(tiny_config: Config, plugin: Plugin, stages: dict[str, Any]) -> None:
    objective = {**tiny_config()["objective"], **stages}
    spec = parse(broken(plugin, tiny_config, "RuntimeError('no edges')", objective=objective))
    with pytest.raises(RuntimeError, match="no edges"):
        rehearse(spec, spec.data.build())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), NotFiniteError("the loss is nan")])
def test_what_the_size_or_an_untrained_teacher_causes_is_passed_over(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(BUILDERS.factory("knn"), "build", fail)
    rehearse(spec := parse(tiny_config()), spec.data.build())


def test_a_users_mistake_stays_one(tiny_config: Config, plugin: Plugin) -> None:
    config = broken(plugin, tiny_config, "__import__('graphkd').UserError('no such thing')")
    with pytest.raises(UserError, match=r"^a variant: no such thing$"):
        check_parts([("a variant", parse(config))])
    check_parts([("a variant", parse(config))], rehearses=False)


def test_several_devices_are_rehearsed_on_one(tiny_config: Config, plugin: Plugin) -> None:
    config = broken(plugin, tiny_config, "RuntimeError('no edges')")
    for node in ("trainer", "teacher_trainer"):
        config[node] |= {"devices": 2, "accelerator": "cpu", "batch_size": 8, "samples_per_class": 8}
    with pytest.raises(RuntimeError, match="no edges"):
        run(parse(config), worker="graphkd_cli.worker")
    assert not Path(config["results"]).exists()


def test_an_error_outside_plug_ins_is_raised_as_it_is(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(BUILDERS.factory("knn"), "build", fail)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        rehearse(spec := parse(tiny_config()), spec.data.build())


def test_only_a_run_that_waits_for_a_teacher_is_rehearsed(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[str] = []
    monkeypatch.setattr("graphkd.run.execution.rehearse", lambda spec, dataset: rehearsed.append(spec.variant))
    assert not waits_for_teacher(parse(tiny_config({"objective": {"ce": {"name": "ce", "weight": 1.0}}})))
    run(parse(tiny_config({"variant": "first"})))
    run(parse(tiny_config({"variant": "second"})))
    assert rehearsed == ["first"]
    assert not waits_for_teacher(parse(tiny_config({"force": True})))


def test_a_run_ends_with_the_same_bytes_as_without_a_rehearsal(tiny_config: Config, tmp_path: Path) -> None:
    rehearsed = run(parse(tiny_config({"results": str(tmp_path / "rehearsed")})))
    run(parse_teacher(tiny_config()))
    plain = run(parse(tiny_config()))
    weights = [(result.folder / "student.safetensors").read_bytes() for result in (rehearsed, plain)]
    assert weights[0] == weights[1]


def test_a_rehearsal_leaves_no_trace(tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither on disk nor in memory nor in torch's generator, nor processes."""
    for split, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / "photos" / split / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (100, 100), (60 * number, 9, 0)).save(
                tmp_path / "photos" / split / label / f"{number}.png"
            )
    photos = {"name": "folder", "root": str(tmp_path / "photos"), "image_size": 100, "workers": 1}
    spec = parse(tiny_config({"data": photos, "trainer.batch_size": 4, "negatives": 2}))
    alive: list[weakref.ref[object]] = []
    build = StudentSpec.build

    def noted(self: StudentSpec, *arguments: Any) -> Built:
        built = build(self, *arguments)
        alive.extend(map(weakref.ref, (built.network, built.objective)))
        return built

    monkeypatch.setattr(StudentSpec, "build", noted)
    before = torch.random.get_rng_state()
    processes = set(multiprocessing.active_children())  # joblib's workers outlive the tests of sweeps
    gc.disable()
    try:
        rehearse(spec, spec.data.build())
        assert set(multiprocessing.active_children()) <= processes
    finally:
        gc.enable()
    gc.collect()
    assert [each() for each in alive] == [None, None]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not spec.folder.exists()
    assert not Path(spec.config["results"]).exists()
