"""Cases of the graph and of its encoders."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from graphkd.bench import published
from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.builder import BUILDERS
from graphkd.engine.seeding import initialising
from graphkd.gnn import GNNS
from graphkd.graph import BatchGraph, Nodes, dgl_supports

ENCODERS = ("tag", "sage", "gat", "gin", "gcn")


def graph_cases(settings: Settings) -> list[Case]:
    """The kNN graph of a batch, and one layer of each encoder."""
    missing = "" if dgl_supports(settings.device) else f"no baseline: the installed DGL does not know {settings.device}"
    of_knn = missing or "knn goes through the host to a DGLGraph in the baseline"
    of_encoders = missing or "encoders run with engine=dgl in the baseline, engine=dense in graphkd"
    cases = []
    for batch in (settings.batch, settings.larger_batch):
        quick = batch == settings.batch
        cases.append(Case("graph", partial(knn, settings, batch), of_knn, quick, memory="never"))
        for name in ENCODERS:
            cases.append(Case("graph", partial(encoder, settings, name, batch), of_encoders, quick, memory="never"))
    return cases


def knn(settings: Settings, batch: int) -> Sides:
    """From logits to the form that the encoder takes: a DGLGraph, or an adjacency."""
    logits = 3 * settings.normal("logits", batch, settings.classes)
    builder = BUILDERS.build("knn", k=settings.k)
    baseline = partial(published.knn_graph, logits, settings.k) if dgl_supports(settings.device) else None
    return Sides(baseline, {f"knn, B={batch}": lambda: builder.build(Nodes(logits)).adjacency})


def encoder(settings: Settings, name: str, batch: int) -> Sides:
    """An encoder forward and backward by its two engines, from a graph that neither has seen before."""
    closeness = settings.normal("closeness", batch, batch).fill_diagonal_(torch.inf)
    neighbours = closeness.topk(settings.k).indices
    x = settings.normal("embeddings", batch, settings.dim).requires_grad_()
    direction = settings.normal("direction", batch, settings.dim)

    def engine(engine: str) -> Work:
        with initialising(settings.seed, "bench", name):
            module = GNNS.build(name, in_dim=settings.dim, out_dim=settings.dim, engine=engine).to(settings.device)

        def work() -> tuple[Tensor, ...]:
            embeddings = module(BatchGraph.from_neighbours(neighbours), x)
            return torch.autograd.grad((embeddings * direction).sum(), [x, *module.parameters()])

        return work

    baseline = engine("dgl") if dgl_supports(settings.device) else None
    return Sides(baseline, {f"{name}, B={batch}": engine("dense")})
