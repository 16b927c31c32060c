"""Sharded banks in real processes against the same computation in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import forked
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from golden import assert_close
from samples import DIM, TRAIN_LABELS, WIDTHS, batch, normal, seeded

from graphkd import BUILDERS, GNNS, OBJECTIVES, UserError
from graphkd.contrast import FullBank, build_sampler, info_nce, infonce, nce
from graphkd.contrast import nce_log_normalizer as log_z
from graphkd.contrast.options import BankOptions
from graphkd.contrast.shard import Shard
from graphkd.objective.contrastive import ContrastiveObjective

SAMPLERS = ["explicit", "shared", "all", "all_weighted"]
ROWS = 41
LABELS = (torch.rand(ROWS, generator=seeded(0)) ** 2 * 4).long()
STEPS = 3
BANK_OPTIONS = [{}, {"dtype": "bfloat16"}, {"on_host": True}]
Found = dict[str, Any]


def cases() -> dict[str, Callable[[], Found]]:
    """What is computed in one process and in several; each gives tensors by name."""
    made: dict[str, Callable[[], Found]] = {}
    for sampler in SAMPLERS:
        for count in (6, 40):  # 40 is more than there are for some anchors
            made[f"losses {sampler} {count}"] = lambda s=sampler, c=count: losses(s, c, 1 << 18)
        made[f"losses {sampler} in small blocks"] = lambda s=sampler: losses(s, 6, 16)
        made[f"losses {sampler} without waiting"] = lambda s=sampler: not_waiting(s)
        made[f"objective hkd {sampler}"] = lambda s=sampler: objective("hkd", s)
        made[f"objective crd {sampler}"] = lambda s=sampler: objective("crd", s)
    made["objective hkd other"] = lambda: objective("hkd", "shared", negatives_from="other", teacher_gradient=False)
    for builder in ("bank_knn", "bank_knn same label"):
        made[f"objective hkd {builder}"] = lambda b=builder: objective("hkd", "shared", builder=b)
    made["losses explicit gathered"] = gathered_rows
    made["losses in float32"] = lambda: losses("shared", 6, 1 << 18, torch.float32, 0.01)
    made["loaded and cut"] = loaded_and_cut
    for number, options in enumerate(BANK_OPTIONS):
        made[f"bank {number}"] = lambda o=options: bank_steps(**o)
    return made


def losses(
    sampler: str, count: int, entries: int, dtype: torch.dtype = torch.float64, temperature: float = 0.2
) -> Found:
    """Both losses and their gradients, with two parts of queries."""
    bank = FullBank(LABELS, DIM, dtype=dtype, sharded=True, generator=seeded(1))
    anchors = torch.arange(9) % 4
    queries, positives = F.normalize(normal(2, 2, 2, 9, DIM, dtype=dtype), dim=-1)
    queries.requires_grad_()
    selection = build_sampler(sampler, bank, count).select(anchors, seeded(3))
    given = (queries, positives, bank, selection, temperature)
    with patch.object(infonce, "_block_entries", lambda device: entries):
        logs = log_z(*given, ROWS)
        found = {"info_nce": info_nce(*given), "nce": nce(*given, logs, ROWS)}
        detached = (queries.detach(), *given[1:])
        alone = {"info_nce alone": info_nce(*detached), "nce alone": nce(*detached, logs, ROWS)}
    gradients = {f"{name} gradient": torch.autograd.grad(loss @ torch.tensor([1.0, -2.0], dtype=dtype), queries)[0]
                 for name, loss in found.items()}  # fmt: skip
    return {**found, **gradients, **alone, "log Z": logs, "counts": selection.counts()}


def not_waiting(sampler: str) -> Found:
    """As on a device that must not be waited for, where rows of others get weight 0."""
    with patch("graphkd.contrast.selection._may_wait_for", lambda device: False), gathering():
        return losses(sampler, 6, 1 << 18)


def gathered_rows() -> Found:
    """Explicit negatives, each anchor's rows by themselves."""
    with gathering():
        return losses("explicit", 6, 1 << 6)


@contextmanager
def gathering() -> Iterator[None]:
    with patch("graphkd.contrast.selection.GATHER_FROM", 0):
        yield


def objective(name: str, sampler: str, builder: str = "knn", **options: Any) -> Found:
    """Some steps of a whole objective of gradient descent in float64."""
    torch.manual_seed(5)
    runtime = {"student_dim": WIDTHS["student"], "teacher_dim": WIDTHS["teacher"], "labels": TRAIN_LABELS}
    if name == "hkd":
        gnns = {f"{side}_gnn": GNNS.build("tag", in_dim=8, out_dim=8) for side in WIDTHS}
        in_class = {"same_label_only": True} if builder.endswith("same label") else {}
        runtime |= {"builder": BUILDERS.build(builder.split()[0], k=3, **in_class), **gnns}
    made = OBJECTIVES.build(
        name,
        **runtime,
        dim=8,
        negatives=20,
        temperature=0.2,
        sampler=sampler,
        bank=BankOptions(sharded=True),
        **options,
    )
    assert isinstance(made, ContrastiveObjective)
    made.double()
    for bank in (made._student_bank, made._teacher_bank):
        bank.rows = bank.rows.double()
    made.prepare(torch.device("cpu"), lambda stream: seeded(len(stream)))
    found: Found = {}
    for step in range(STEPS):
        some = batch(13, seed=step, dtype=torch.float64)
        terms = made(some)
        made.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        trained = {key: weight for key, weight in made.named_parameters() if weight.grad is not None}
        for key, weight in trained.items():
            found[f"{step} gradient of {key}"] = weight.grad
            weight.data -= 0.1 * weight.grad  # torch.optim takes seconds to import, in every process
        made.after_step()
        found |= {f"{step} {term}": loss for term, loss in terms.items()}
        found[f"{step} to the student"] = some.student.embedding.grad
    state = made.state_dict()
    banks = state.pop("_extra_state")
    return {**found, **state, **{f"{name} rows": banks[name]["rows"] for name in ("student_bank", "teacher_bank")}}


def bank_steps(**options: Any) -> Found:
    """Updates, among them batches of which a process holds nothing, and what comes back."""
    bank = BankOptions(sharded=True, **options).build(LABELS, 4, seeded(1))
    found = {"start rows": bank.state_dict()["rows"].clone()}
    for turn, indices in enumerate(([0, 1, 2, 40], [3, 7], [0, 20, 13, 27, 1], [40])):
        bank.update(torch.tensor(indices), F.normalize(normal(turn, len(indices), 4), dim=1), 0.4)
    found["gathered"] = bank.gather(torch.tensor([40, 0, 20, 13, 33]), torch.zeros(5, 4))
    return {**found, "rows": bank.state_dict()["rows"]}


def loaded_and_cut() -> Found:
    """What a process holds of a bank that it loads, and of one that was made before the processes were joined."""
    state = {"rows": normal(8, ROWS, 4)}
    loaded = FullBank(LABELS, 4, sharded=True, generator=seeded(1))
    loaded.load_state_dict(state)
    with patch.object(dist, "is_initialized", lambda: False):
        cut = FullBank(LABELS, 4, sharded=True, generator=seeded(1))
    assert len(cut.rows) == ROWS
    cut.to("cpu").load_state_dict(state)
    part = loaded.shard.rows
    assert torch.equal(loaded.rows, state["rows"][part])
    assert torch.equal(cut.rows, loaded.rows)
    assert cut.rows.untyped_storage().nbytes() == 16 * len(cut.rows)
    assert len(loaded.rows) in (ROWS // loaded.shard.world, ROWS // loaded.shard.world + 1)
    return {"gathered": cut.gather(torch.arange(ROWS), torch.zeros(ROWS, 4))}


def work(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    torch.save({name: case() for name, case in cases().items()}, folder / f"{rank}.pt")
    with pytest.raises(UserError, match="1 training samples cannot be shared among"):
        Shard.here(1)
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """Everything that each process of a world computed."""
    folder = tmp_path_factory.mktemp("processes")
    forked.server()
    torch.multiprocessing.start_processes(work, (request.param, folder), request.param, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", cases())
def test_several_processes_find_what_one_finds(name: str, found: list[dict[str, Found]]) -> None:
    expected = cases()[name]()
    for rank, results in enumerate(found):
        assert results[name].keys() == expected.keys()
        for what, value in expected.items():
            if what.endswith("rows") and rank > 0:
                own = Shard(len(value), rank, len(found)).rows
                value = value[own]
            assert_close(results[name][what], value, 1e-10 if value.dtype == torch.float64 else 1e-5)


def test_all_processes_find_the_very_same(found: list[dict[str, Found]]) -> None:
    for name, results in found[0].items():
        for what, value in results.items():
            if not what.endswith("rows"):
                assert all(torch.equal(other[name][what], value) for other in found[1:]), (name, what)


@pytest.mark.parametrize("total", [7, 50_000])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_rows_are_cut_evenly_and_without_a_gap(total: int, world: int) -> None:
    parts = [Shard(total, rank, world).rows for rank in range(world)]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(total))
    assert max(part.stop - part.start for part in parts) == -(-total // world)


def test_alone_a_sharded_bank_is_an_ordinary_one() -> None:
    bank = FullBank(LABELS, 4, sharded=True, generator=seeded(1))
    assert torch.equal(bank.rows, FullBank(LABELS, 4, generator=seeded(1)).rows)
    assert bank.to("cpu").view().rows is bank.rows


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"bank.sharded needs bank.kind: full"):
        BankOptions("queue", length=8, sharded=True).build(LABELS, 4)
    with patch.object(Shard, "here", lambda total: Shard(total, 0, 2)):
        half = FullBank(LABELS, DIM, sharded=True)
    with pytest.raises(UserError, match=r"all of the bank's rows needs them in each process: set bank.sharded=false"):
        _ = half.view().rows
