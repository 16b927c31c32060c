"""Cases of the graph and of its encoders."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.bench import published
from graphkd.bench.case import Case, Settings, Sides, Work
from graphkd.builder import BUILDERS
from graphkd.contrast import FullBank
from graphkd.engine.seeding import initialising
from graphkd.gnn import GNNS
from graphkd.graph import BatchGraph, Nodes, dgl_supports

ENCODERS = ("tag", "sage", "gat", "gin", "gcn")


def graph_cases(settings: Settings) -> list[Case]:
    """Return the kNN graph of a batch, and one layer of each encoder."""
    missing = "" if dgl_supports(settings.device) else f"no baseline: the installed DGL does not know {settings.device}"
    of_knn = missing or "knn goes through the host to a DGLGraph in the baseline"
    of_encoders = missing or "encoders run with engine=dgl in the baseline, engine=dense in graphkd"
    cases = []
    for batch in (settings.batch, settings.larger_batch):
        quick = batch == settings.batch
        cases.append(Case("graph", partial(knn, settings, batch), of_knn, quick, memory="never"))
        for name in ENCODERS:
            cases.append(Case("graph", partial(encoder, settings, name, batch), of_encoders, quick, memory="never"))
    of_bank = "bank_knn has no published form: in the baseline, one product with the whole bank and its topk"
    return [*cases, Case("graph", partial(bank_knn, settings), of_bank)]


def knn(settings: Settings, batch: int) -> Sides:
    """Return the way from logits to what the encoder takes: a DGLGraph, or an adjacency."""
    logits = 3 * settings.normal("logits", batch, settings.classes)
    builder = BUILDERS.build("knn", k=settings.k)
    baseline = partial(published.knn_graph, logits, settings.k) if dgl_supports(settings.device) else None
    return Sides(baseline, {f"knn, B={batch}": lambda: builder.build(Nodes(logits)).adjacency})


def bank_knn(settings: Settings) -> Sides:
    """Return the nearest of every sample among all banked ones, of its own class alone, with their embeddings."""
    bank = FullBank(settings.training_labels(), settings.dim, generator=settings.generator("bank"))
    indices = settings.indices()
    embedding = F.normalize(settings.normal("embeddings", settings.batch, settings.dim), dim=1)
    nodes = Nodes(embedding, embedding, bank.labels[indices], indices, bank.view())
    builder = BUILDERS.build("bank_knn", k=settings.k, same_label_only=True)

    def whole_bank() -> Tensor:
        similarity = embedding @ bank.rows.T
        similarity[bank.labels[indices][:, None] != bank.labels] = -torch.inf
        similarity.scatter_(1, indices[:, None], -torch.inf)
        return bank.rows[similarity.topk(settings.k - 1).indices]

    return Sides(whole_bank, {f"bank_knn, N={settings.samples:,}": lambda: builder.build(nodes).support})


def encoder(settings: Settings, name: str, batch: int) -> Sides:
    """Return an encoder forward and backward by its two engines, from a graph that neither has seen before."""
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
