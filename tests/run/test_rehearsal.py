"""The rehearsal of a first step before a teacher is trained."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graphkd import BUILDERS
from graphkd.run import check_parts, parse, run
from graphkd.run.rehearsal import rehearse, waits_for_teacher

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


def test_an_error_outside_plug_ins_is_raised_as_it_is(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(BUILDERS.factory("knn"), "build", fail)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        rehearse(spec := parse(tiny_config()), spec.data.build())


def test_only_a_run_that_waits_for_a_teacher_is_rehearsed(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[str] = []
    monkeypatch.setattr("graphkd.run.execute.rehearse", lambda spec, dataset: rehearsed.append(spec.variant))
    assert not waits_for_teacher(parse(tiny_config({"objective": {"ce": {"name": "ce", "weight": 1.0}}})))
    run(parse(tiny_config({"variant": "first"})))
    run(parse(tiny_config({"variant": "second"})))
    assert rehearsed == ["first"]
    assert not waits_for_teacher(parse(tiny_config({"force": True})))


def test_a_rehearsal_leaves_no_trace(tiny_config: Config) -> None:
    """Neither on disk nor in torch's generator."""
    spec = parse(tiny_config())
    before = torch.random.get_rng_state()
    rehearse(spec, spec.data.build())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not spec.folder.exists()
    assert not Path(spec.config["results"]).exists()
