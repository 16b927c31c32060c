"""HKD: holistic knowledge distillation, the method at the centre of graphkd."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.builder import GraphBuilder
from graphkd.contrast import Bank, Selection, info_nce
from graphkd.contrast.options import BankOptions
from graphkd.diagnostics import GraphDiagnostics, compare_graphs
from graphkd.errors import UserError, check
from graphkd.gnn import GraphEncoder
from graphkd.graph import BatchGraph, Nodes
from graphkd.objective.base import OBJECTIVES, Setting, teacher_output
from graphkd.objective.contrastive import ContrastiveObjective, SamplerName, project
from graphkd.objective.logits import check_share, entropies, prune


class _Side(NamedTuple):
    """One network's batch: its embeddings, their banked rows, and its graphs and graph embeddings if it has them."""

    embedding: Tensor
    banked: Tensor
    graphs: Sequence[BatchGraph] = ()
    graph_embedding: Tensor | None = None


@OBJECTIVES.register("hkd")
class HKD(ContrastiveObjective):
    """Individual and graph embeddings of student and teacher, pulled together by contrast (arXiv 2108.05507).

    Each network has a linear head, a graph encoder and a bank of embeddings. The individual part (eq. 5) contrasts an
    embedding with the other network's banked one, the holistic part (eq. 6) a graph embedding with the other network's
    banked one smoothed by its graph embedding; negatives come from the banks. The terms `individual` and `holistic` are
    the sums of both directions. Samples are those of the weak view; a builder may look at a second one.

    Attributes:
        student_head: `torch.nn.Linear` on the student's embedding; `teacher_head` likewise.
        student_gnn: The student side's encoder; `teacher_gnn` likewise, or the same module.
    """

    name = "hkd"
    needs_maps = False
    parts = ("individual", "holistic")
    _entropies: Tensor | None
    """How unsure the student was of each training sample when it last saw it, float32 [N]; None if not needed."""

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        builder: GraphBuilder | None = None,
        student_gnn: GraphEncoder | None = None,
        teacher_gnn: GraphEncoder | None = None,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        sampler: SamplerName = "shared",
        negatives_from: Literal["own", "other"] = "own",
        individual: bool = True,
        holistic: bool = True,
        graph_scope: Literal["global", "local"] = "global",
        graphs_from: Literal["own", "teacher"] = "own",
        smoothing: float = 0.75,
        bank_momentum: float = 0.9,
        teacher_gradient: bool = True,
        prune_unreliable: float | None = None,
        bank: BankOptions = BankOptions(),  # noqa: B008 (immutable)
    ) -> None:
        """Create an HKD objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            labels: Class of every training sample, int64 [N].
            builder: Builds each network's graph from its own logits, for the holistic part.
            student_gnn: The student's graph encoder, from `dim` to `dim`.
            teacher_gnn: The teacher's graph encoder; may be the same module.
            dim: Width D of embeddings and banks.
            negatives: K, negatives of each sample.
            temperature: T, by which similarities are divided.
            sampler: Source of the negatives; see `SamplerName`.
            negatives_from: Bank of the negatives: the network's `own`, as in the released code, or the `other`
                network's, as in CRD.
            individual: Whether there is the individual part.
            holistic: Whether there is the holistic part. Without it no graph is built.
            graph_scope: On several devices, one graph over the `global` batch or a `local` one for each device's part.
            graphs_from: The network whose graph an encoder gets: its `own`, as published, or the `teacher`.
            smoothing: Share of the banked embedding in the holistic part's positives.
            bank_momentum: Share of the old row in an update of a bank.
            teacher_gradient: Whether the teacher's head and encoder are trained too.
            prune_unreliable: Leave edges out of both networks' graphs where the student's predictions for both ends
                have more than this share of the greatest joint entropy, 2 ln C. Of a banked sample it is the
                prediction of its last step; before the first, no edge from it is kept. Null keeps all.
            bank: Options of both banks.

        Raises:
            UserError: An option is out of range, both parts are off, the builder or an encoder is missing, an encoder
                is of another width, the training set has one class only, or the teacher's graph is asked for from a
                builder that adds nodes.
        """
        super().__init__(student_dim, teacher_dim, labels, dim, negatives, temperature, sampler, bank_momentum, bank)
        check(individual or holistic, "objective 'hkd': individual and holistic are both off, so nothing is left")
        self.check_between_0_and_1(smoothing=smoothing)
        graph_parts = {"builder": builder, "student_gnn": student_gnn, "teacher_gnn": teacher_gnn}
        missing = [name for name, part in graph_parts.items() if part is None]
        check(not (holistic and missing), f"objective 'hkd': the holistic part needs {', '.join(missing)}")
        for name, gnn in (("student_gnn", student_gnn), ("teacher_gnn", teacher_gnn)):
            if gnn is not None:
                widths = f"{gnn.in_dim} to {gnn.out_dim}"
                fits = gnn.in_dim == gnn.out_dim == dim
                check(fits, f"objective 'hkd': {name} must take {dim} features to {dim} (option dim), not {widths}")
        check_share("hkd", prune_unreliable)
        check(
            graphs_from == "own" or builder is None or not (builder.uses_bank or len(builder.views) > 1),
            "objective 'hkd': graphs_from=teacher needs graphs of the batch's own samples, and this builder adds nodes "
            "with the teacher's embeddings: choose another builder",
        )
        self.prune_unreliable = prune_unreliable
        self.builder = builder if holistic else None
        self.views = ("weak",) if self.builder is None else self.builder.views
        self.student_gnn = student_gnn if holistic else None
        self.teacher_gnn = teacher_gnn if holistic else None
        self.negatives_from = negatives_from
        self.individual = individual
        self.graph_scope = graph_scope
        self.graphs_from = graphs_from
        self.smoothing = smoothing
        self.teacher_gradient = teacher_gradient
        remembers = prune_unreliable is not None and self.builder is not None and self.builder.uses_bank
        self.register_buffer("_entropies", torch.full((len(labels),), torch.inf) if remembers else None)

    @classmethod
    def graph_dim(cls, options: Mapping[str, Any]) -> int | None:
        return int(options["dim"]) if options["holistic"] else None

    def notes(self, setting: Setting) -> Sequence[str]:
        found = list(super().notes(setting))
        if self.builder is None:
            return found
        size, where = setting.largest_batch, "a batch"
        if self.graph_scope == "local":
            size, where = max(1, size // setting.processes), "a process's part of a batch"
        least = self.builder.min_nodes
        if size < least:
            found.append(
                f"{where} has {size} samples, but the builder's graphs need {least}, so there is no holistic term and "
                "the banks are never written"
            )
        elif size == 1:
            found.append(f"{where} has one sample, so its graphs have no edges but self loops")
        else:
            found += self.builder.notes(size, setting.labels)
        return found

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the terms `individual` and `holistic`.

        A batch below `builder.min_nodes` has no holistic term and does not update the banks, as in the released code.

        Raises:
            UserError: The batch has negatives, but the sampler is not `explicit` or the bank is a queue.
        """
        batch = batch.select(self.views)
        has_graph = self.builder is not None and min(self._graph_sizes(batch)) >= self.builder.min_nodes
        own = has_graph and self.graphs_from == "own"
        student = self._side(batch.student, batch, self.student_head, self._student_bank, own)
        teacher = self._side(teacher_output(batch), batch, self.teacher_head, self._teacher_bank, has_graph)
        if has_graph:
            student = _encode(student._replace(graphs=student.graphs or teacher.graphs), self.student_gnn)
            teacher = _encode(teacher, self.teacher_gnn)
        selection = self._select(batch)
        parts = self._contrast(student, teacher, self._student_bank, self._teacher_bank, selection, batch.diagnostics)
        with torch.set_grad_enabled(self.teacher_gradient and torch.is_grad_enabled()):
            teacher_parts = self._contrast(teacher, student, self._teacher_bank, self._student_bank, selection)
        self._bank_later(batch, student.embedding, teacher.embedding, written=self.builder is None or has_graph)
        if batch.diagnostics is not None:
            batch.diagnostics.update(self._explained(student, teacher, batch.indices))
        return {name: parts[name] + teacher_parts[name] for name in parts}

    def after_step(self) -> None:
        """Write to the banks, and keep how sure the student was of their samples (`Objective.after_step`)."""
        if self._entropies is not None:
            for seen in self._pending:
                self._entropies[seen.indices] = entropies(seen.logits)
        super().after_step()

    def _side(
        self, output: NetworkOutput, batch: DistillationBatch, head: nn.Linear, bank: Bank, has_graph: bool
    ) -> _Side:
        """Return a network's side, with graphs if asked to, but not encoded."""
        count = len(batch.labels)
        embedding, banked = self._embed(output.map(lambda tensor: tensor[:count]), batch.indices, head, bank)
        if self.builder is None or not has_graph:
            return _Side(embedding, banked)
        with torch.no_grad():
            virtual = project(output.embedding[count:], head)
        graphs = []
        sizes = self._graph_sizes(batch)
        for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
            part = slice(start, start + size)
            second = slice(count + start, count + start + size)  # empty without a second view
            nodes = Nodes(
                output.logits[part].detach(), embedding[part].detach(), batch.labels[part], batch.indices[part],
                bank.view(), self._generators.get("builder"),
                Nodes(output.logits[second].detach(), virtual[part]) if len(virtual) else None,
            )  # fmt: skip
            graph = self.builder.build_checked(nodes)
            graphs.append(self._pruned(graph, batch.student.logits[part], batch.student.logits[second]))
        return _Side(embedding, banked, graphs)

    def _pruned(self, graph: BatchGraph, logits: Tensor, second: Tensor) -> BatchGraph:
        """Return the graph without the edges of whose ends the student, by its logits of both views, is unsure."""
        if self.prune_unreliable is None:
            return graph
        support = entropies(second)
        if self._entropies is not None:
            samples = graph.support_indices
            if samples is None:
                raise UserError(
                    "objective 'hkd': prune_unreliable needs the training samples of banked nodes, and this builder's "
                    "graphs have no support_indices: choose another builder"
                )
            support = self._entropies[samples]
        return prune(graph, entropies(logits), support, self.prune_unreliable, logits.shape[1])

    @torch.no_grad()
    def _explained(self, student: _Side, teacher: _Side, indices: Tensor) -> dict[str, Tensor]:
        """Return what explains a batch: how the networks' embeddings and, on average, their graphs agree."""
        alignment = (student.embedding * teacher.embedding).sum(1).mean()
        if not student.graphs:
            return {"alignment": alignment}
        targets = torch.split(indices, [graph.num_targets for graph in student.graphs])
        labels = self._student_bank.samples.labels
        pairs = zip(student.graphs, teacher.graphs, targets, strict=True)
        figures = [torch.stack(compare_graphs(*pair, labels)) for pair in pairs]
        means = torch.stack(figures).mean(0)
        return {"alignment": alignment, **dict(zip(GraphDiagnostics._fields, means, strict=True))}

    def _graph_sizes(self, batch: DistillationBatch) -> list[int]:
        """Return the number of samples in each graph of the batch."""
        is_local = self.graph_scope == "local" and len(batch.parts) > 0
        return [size for size in batch.parts if size > 0] if is_local else [len(batch.labels)]

    def _contrast(
        self, anchor: _Side, other: _Side, own_bank: Bank, other_bank: Bank, selection: Selection,
        diagnostics: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return each part's loss in one direction: the anchor network's queries, the other network's positives."""
        queries: dict[str, Tensor] = {}
        positives: dict[str, Tensor] = {}
        if self.individual:
            queries["individual"], positives["individual"] = anchor.embedding, other.banked
        if anchor.graph_embedding is not None and other.graph_embedding is not None:
            queries["holistic"] = anchor.graph_embedding
            mixed = self.smoothing * other.banked + (1 - self.smoothing) * other.graph_embedding.detach()
            positives["holistic"] = F.normalize(mixed, dim=1)
        if not queries:
            return {}
        bank = own_bank if self.negatives_from == "own" else other_bank
        if diagnostics is not None:
            diagnostics |= self._similarities(queries, positives, bank, selection)
        losses = info_nce(
            torch.stack(list(queries.values())), torch.stack(list(positives.values())),
            bank, selection, self.temperature,
        )  # fmt: skip
        return dict(zip(queries, losses, strict=True))


def _encode(side: _Side, gnn: GraphEncoder | None) -> _Side:
    """Return the side with the graph embeddings that its encoder makes."""
    assert gnn is not None  # with a builder there are encoders
    parts = torch.split(side.embedding, [graph.num_targets for graph in side.graphs])
    encoded = [gnn(graph, part) for graph, part in zip(side.graphs, parts, strict=True)]
    return side._replace(graph_embedding=encoded[0] if len(encoded) == 1 else torch.cat(encoded))
