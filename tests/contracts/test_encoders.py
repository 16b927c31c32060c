"""What every registered graph encoder must do, whoever runs it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from encoders import build, variants, widths
from samples import DIM, nodes, normal, random_graph, seeded
from torch import Tensor

from graphkd import BUILDERS, GNNS, BatchGraph, UserError
from graphkd.gnn import GraphEncoder

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
every_encoder = pytest.mark.parametrize("name", GNNS.names())
with_engines = pytest.mark.parametrize("name", [name for name in GNNS.names() if "engine" in GNNS.options(name)])
with_layers = pytest.mark.parametrize("name", [name for name in GNNS.names() if "layers" in GNNS.options(name)])


def every_variant_of(names: list[str]) -> pytest.MarkDecorator:
    """Parametrises over encoders and their options."""
    cases = [(name, options) for name in names for options in variants(name)]
    ids = ["-".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in cases]
    return pytest.mark.parametrize(("name", "options"), cases, ids=ids)


every_variant = every_variant_of(GNNS.names())
every_variant_with_engines = every_variant_of([name for name in GNNS.names() if "engine" in GNNS.options(name)])


def graphs(dtype: torch.dtype) -> dict[str, BatchGraph]:
    """Graphs of every form, by what is special about them."""
    made = {
        f"{shape}, {'weighted' if weighted else 'plain'}": random_graph(
            size, seed, support, weighted, loops, dtype=dtype
        )
        for weighted in (False, True)
        for seed, (shape, size, support, loops) in enumerate(
            [
                ("a batch", 13, 0, True),
                ("a batch of 1", 1, 0, True),
                ("support", 7, 5, True),
                ("a batch of 1 with support", 1, 5, True),
                ("isolated targets", 11, 0, False),
                ("isolated targets with support", 6, 3, False),
            ]
        )
    }
    made["no edges"] = BatchGraph.from_adjacency(torch.zeros(3, 3, dtype=torch.bool))
    for name in BUILDERS.names():
        made[f"builder {name}"] = BUILDERS.build(name).build(nodes(17))
    return made


def embeddings(graph: BatchGraph, dtype: torch.dtype, ties: bool) -> Tensor:
    """Random ones; with ties, of few values and many equal rows."""
    x = normal(graph.num_targets, graph.num_targets, DIM, dtype=dtype)
    return x[torch.arange(len(x)) % 3].round().clamp(-1, 1) if ties else x


def run(encoder: GraphEncoder, graph: BatchGraph, x: Tensor) -> dict[str, Tensor]:
    """Output, and the gradients of a random linear function of it."""
    x = x.clone().requires_grad_()
    weights = None if graph.weights is None else graph.weights.clone().requires_grad_()
    graph = BatchGraph(graph.sources, graph.targets, graph.num_targets, support=graph.support, weights=weights)
    encoder.zero_grad()
    raws: list[Tensor] = []
    propagate = encoder.propagate
    with patch.object(encoder, "propagate", lambda *given: raws.append(propagate(*given)) or raws[-1]):
        out = encoder(graph, x)
    (raw,) = raws
    ((raw + out) * normal(7, *out.shape, dtype=out.dtype)).sum().backward()
    leaves = {"x": x, "edge weights": weights, **dict(encoder.named_parameters())}
    found = {
        f"gradient of {name}": torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
        if leaf is not None
    }
    return {"raw output": raw.detach(), "output": out.detach(), **found}


def engines(name: str, out_dim: int, dtype: torch.dtype, options: dict[str, Any]) -> tuple[GraphEncoder, GraphEncoder]:
    """The encoder run by DGL and the same run dense; the second has the first one's weights by name."""
    dgl = build(name, out_dim, dtype, engine="dgl", **options)
    dense = GNNS.build(name, in_dim=DIM, out_dim=out_dim, engine="dense", **options).to(dtype)
    dense.load_state_dict(dgl.state_dict())
    return dgl, dense


@every_variant_with_engines
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_both_engines_agree(name: str, options: dict[str, Any], dtype: torch.dtype, ties: bool) -> None:
    for out_dim in widths(name) if dtype == torch.float64 and not ties else [DIM]:
        dgl, dense = engines(name, out_dim, dtype, options)
        for shape, graph in graphs(dtype).items():
            x = embeddings(graph, dtype, ties)
            expected, found = run(dgl, graph, x), run(dense, graph, x)
            for what, value in expected.items():
                apart = (found[what] - value).abs().max() / value.abs().max().clamp(min=1)
                assert apart <= TOLERANCE[dtype], f"{shape}: {what} is off by {apart:.1e} at width {out_dim}"


@every_variant
def test_the_output_is_a_unit_row_for_each_target(name: str, options: dict[str, Any]) -> None:
    for out_dim in widths(name):
        encoder = build(name, out_dim, **options)
        for graph in (random_graph(13, 0), random_graph(7, 1, support=5), random_graph(1, 0)):
            out = encoder(graph, embeddings(graph, torch.float32, ties=False))
            assert out.shape == (graph.num_targets, out_dim)
            assert out.dtype == torch.float32
            torch.testing.assert_close(out.norm(dim=1), torch.ones(graph.num_targets))


@every_variant
def test_gradient_reaches_the_embeddings_and_every_parameter(name: str, options: dict[str, Any]) -> None:
    encoder = build(name, **options)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    for what, gradient in run(encoder, random_graph(13, 0, density=0.5), normal(0, 13, DIM)).items():
        assert gradient.isfinite().all(), what
        assert gradient.any(), what


DEGENERATE = {
    "zero": lambda x: 0 * x,
    "identical rows": lambda x: x[:1].expand_as(x),
    "some zero rows": lambda x: x * (torch.arange(len(x)) % 2)[:, None],
    "all 1e4": lambda x: torch.full_like(x, 1e4),
    "all -1e4": lambda x: torch.full_like(x, -1e4),
    "tiny": lambda x: 1e-30 * x,
}


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_degenerate_embeddings_give_finite_outputs_and_gradients(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    fresh = GNNS.build(name, in_dim=DIM, out_dim=DIM, **options)  # its biases are 0: zero rows stay zero
    for graph in (random_graph(1, 0), random_graph(9, 1, support=4), random_graph(6, 2, loops=False)):
        for what, change in DEGENERATE.items():
            x = change(normal(0, graph.num_targets, DIM)).to(dtype)
            for encoder in (fresh, build(name, **options)):
                for found, value in run(encoder, graph, x).items():
                    assert value.isfinite().all(), f"{what}: {found}"


@every_variant
def test_no_gradient_reaches_the_support_rows(name: str, options: dict[str, Any]) -> None:
    graph = random_graph(7, 0, support=5)
    assert graph.support is not None
    graph.support.requires_grad_()
    encoder = build(name, **options)
    encoder(graph, normal(0, 7, DIM).requires_grad_()).sum().backward()
    assert graph.support.grad is None


@every_variant
def test_the_same_seed_gives_the_same_encoder_and_output(name: str, options: dict[str, Any]) -> None:
    graph, x = random_graph(13, 0), normal(0, 13, DIM)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        encoder = GNNS.build(name, in_dim=DIM, out_dim=DIM, **options)
        outputs += [encoder(graph, x), encoder(graph, x), encoder.eval()(graph, x)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@every_variant
def test_samples_in_another_order_give_the_same_in_that_order(name: str, options: dict[str, Any]) -> None:
    graph, x = random_graph(11, 0), normal(0, 11, DIM, dtype=torch.float64)
    order = torch.randperm(11, generator=seeded(1))
    moved = BatchGraph.from_adjacency(graph.adjacency[order][:, order])
    encoder = build(name, dtype=torch.float64, **options)
    torch.testing.assert_close(encoder(moved, x[order]), encoder(graph, x)[order])


@every_encoder
def test_half_precision_is_encoded_in_float32_also_under_autocast(name: str) -> None:
    graph, x = random_graph(13, 0), normal(0, 13, DIM).bfloat16()
    encoder = build(name)
    outputs = [encoder(graph, x.float()), encoder(graph, x)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs += [encoder(graph, x.float()), encoder(graph, x)]
    for output in outputs:
        assert output.dtype == torch.float32
        assert torch.equal(output, outputs[0])


@every_encoder
def test_the_input_is_not_changed(name: str) -> None:
    graph, x = random_graph(7, 0, support=5, weighted=True), normal(0, 7, DIM)
    assert graph.support is not None
    before = x.clone(), graph.support.clone(), graph.weighted_adjacency
    build(name)(graph, x)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, graph.support, graph.weighted_adjacency), strict=True))


@with_engines
def test_auto_takes_dgl_for_large_graphs_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = random_graph(13, 0), normal(0, 13, DIM)
    auto = build(name)
    assert torch.equal(auto(graph, x), build(name, engine="dense")(graph, x))
    monkeypatch.setattr(type(auto), "dense_limit", 12)
    assert torch.equal(auto(graph, x), build(name, engine="dgl")(graph, x))


@with_engines
def test_auto_does_without_dgl_where_it_does_not_know_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = random_graph(13, 0), normal(0, 13, DIM)
    auto, dgl = build(name), build(name, engine="dgl")
    expected = auto(graph, x)
    monkeypatch.setattr(type(auto), "dense_limit", 12)
    monkeypatch.setattr("graphkd.gnn.base.dgl_supports", lambda device: False)
    monkeypatch.setattr(BatchGraph, "dgl", None)
    assert torch.equal(auto(graph, x), expected)
    with pytest.raises(UserError, match="the installed DGL has no support for cpu; use engine=auto or engine=dense"):
        dgl(graph, x)


@with_engines
def test_there_are_three_engines(name: str) -> None:
    with pytest.raises(UserError, match=f"graph encoder '{name}': option 'engine' is 'pyg', but must be one of auto"):
        GNNS.build(name, in_dim=DIM, out_dim=DIM, engine="pyg")


@with_layers
def test_there_is_at_least_one_layer(name: str) -> None:
    with pytest.raises(UserError, match=f"graph encoder '{name}': layers is 0, but must be at least 1"):
        GNNS.build(name, in_dim=DIM, out_dim=DIM, layers=0)


@with_layers
def test_layers_have_a_module_each(name: str) -> None:
    encoder = GNNS.build(name, in_dim=DIM, out_dim=widths(name)[-1], layers=3)
    assert len(encoder.convolutions) == 3
    assert {name.split(".")[1] for name in encoder.state_dict()} in ({"0", "1", "2"}, set())


@every_variant
@pytest.mark.gpu
def test_a_gpu_computes_the_same_without_waiting_for_the_host(name: str, options: dict[str, Any]) -> None:
    adjacency, x = random_graph(33, 0).adjacency, normal(0, 33, DIM)
    encoder = build(name, **options)
    expected = encoder(BatchGraph.from_adjacency(adjacency), x)
    encoder, on_gpu, x = encoder.cuda(), adjacency.cuda(), x.cuda().requires_grad_()
    encoder(BatchGraph.from_adjacency(on_gpu), x).sum().backward()  # whatever CUDA sets up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = encoder(BatchGraph.from_adjacency(on_gpu), x)
        found.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)
