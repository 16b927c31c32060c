"""How runs are cut into groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphkd.run import StudentSpec, parse
from graphkd.run.group import cut, stream

Config = Callable[..., dict[str, Any]]


def specs(tiny_config: Config, seeds: int, taught: int) -> list[StudentSpec]:
    """Runs of some seeds: so many with a teacher, and one without."""
    objectives = [{"kd": "kd"}] * taught + [{"ce": "ce"}]
    return [
        parse(tiny_config({"seed": seed, "objective": objective, "variant": str(number)}))
        for seed in range(seeds)
        for number, objective in enumerate(objectives)
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(0, 4), st.integers(1, 4), st.none() | st.integers(1, 3))
def test_every_run_is_in_one_group_of_one_stream(
    tiny_config: Config, seeds: int, taught: int, workers: int, largest: int | None
) -> None:
    runs = specs(tiny_config, seeds, taught)
    groups = cut(runs, workers, largest)
    assert sorted(number for group in groups for number in group) == list(range(len(runs)))
    for group in groups:
        assert len(group) <= (largest or len(runs))
        assert len({stream(runs[number]) for number in group}) == 1
        teachers = (runs[number].teacher for number in group)
        assert len({teacher.folder for teacher in teachers if teacher is not None}) <= 1
    assert len(groups) >= min(workers, len(runs))


def test_one_worker_takes_a_seed_at_a_time(tiny_config: Config) -> None:
    assert cut(specs(tiny_config, 2, 2)) == [[0, 1, 2], [3, 4, 5]]


def test_a_seed_is_halved_where_workers_would_stand_idle(tiny_config: Config) -> None:
    assert cut(specs(tiny_config, 1, 3), workers=2) == [[0, 1], [2, 3]]
    sizes = [len(group) for group in cut(specs(tiny_config, 3, 3), workers=2)]
    assert sorted(sizes) == [2, 2, 4, 4], "six and six of twelve"


def test_alone_each_is_a_group_of_its_own(tiny_config: Config) -> None:
    assert cut(specs(tiny_config, 1, 2), largest=1) == [[0], [1], [2]]


def test_other_data_batches_teachers_and_devices_stay_apart(tiny_config: Config) -> None:
    base = {"objective": {"kd": "kd"}}
    others = [
        {}, {"trainer.batch_size": 32}, {"trainer.samples_per_class": 4}, {"data.train_fraction": 0.5},
        {"teacher.seed": 3}, {"trainer.devices": 2},
    ]  # fmt: skip
    assert len(cut([parse(tiny_config({**base, **other})) for other in others])) == len(others)
    same = [{}, {"trainer.epochs": 3}, {"trainer.lr": 0.5}, {"student.name": "resnet14"}, {"trainer.ema": 0.9}]
    assert len(cut([parse(tiny_config({**base, **other})) for other in same])) == 1
