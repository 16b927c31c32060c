"""Mistakes in parts of the user's own: one line that names the class and what it must return, and exit code 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from commands import Command, Plugin
from torch import nn

from graphkd import BatchGraph, UserError
from graphkd.builder import GraphBuilder
from graphkd.graph import Nodes

PARTS = """
    import torch
    from torch import nn
    from graphkd import BUILDERS, MODELS, OBJECTIVES, BatchGraph, NetworkOutput
    from graphkd.builder import GraphBuilder
    from graphkd.model import Network
    from graphkd.objective import Objective

    @BUILDERS.register("own")
    class OwnBuilder(GraphBuilder):
        def build(self, nodes):
            n = len(nodes.logits)
            adjacency = torch.eye(n, dtype=torch.bool)
            return {graph}

    @OBJECTIVES.register("own")
    class OwnObjective(Objective):
        name = "own"
        needs_maps = False

        def forward(self, batch):
            loss = batch.student.logits.square()
            return {losses}

    @MODELS.register("own")
    class OwnNetwork(Network):
        def __init__(self, num_classes=10, in_channels=1):
            super().__init__()
            self.stem = nn.Conv2d(in_channels, 4, 3)
            self.fc = nn.Linear(4, num_classes)

        def forward(self, images):
            maps = self.stem(images).relu()
            embedding = maps.mean((2, 3))
            logits = self.fc(embedding)
            return {output}
"""
RIGHT = {
    "graph": "BatchGraph.from_adjacency(adjacency)",
    "losses": "{'own': loss.mean()}",
    "output": "NetworkOutput(logits, [maps], embedding)",
}
BUILDER, OBJECTIVE, NETWORK = (
    "graph builder OwnBuilder",
    "OwnObjective.forward must return",
    "OwnNetwork.forward must return",
)
MISTAKES = {
    "a tensor for a graph": ({"graph": "adjacency"}, f"{BUILDER} must return a BatchGraph, not a Tensor"),
    "too few nodes": (
        {"graph": "BatchGraph.from_adjacency(adjacency[1:, 1:])"}, "targets, but the batch has",
    ),
    "no self loops": (
        {"graph": "BatchGraph.from_adjacency(~adjacency)"},
        "samples have no self loop (adjacency.fill_diagonal_(True))",
    ),
    "a tensor for losses": ({"losses": "loss.mean()"}, f"{OBJECTIVE} a dict of scalars by name, not a Tensor"),
    "a loss for each sample": (
        {"losses": "{'own': loss.mean(1)}"}, f"{OBJECTIVE} scalars (a mean), but its 'own' is [",
    ),
    "a number for a loss": (
        {"losses": "{'own': loss.mean().item()}"}, f"{OBJECTIVE} scalars (a mean), but its 'own' is float",
    ),
    "logits alone": ({"output": "logits"}, f"{NETWORK} a NetworkOutput, not a Tensor"),
    "a map for a list of maps": (
        {"output": "NetworkOutput(logits, maps, embedding)"}, f"{NETWORK} a list of feature maps, not a Tensor",
    ),
    "maps for an embedding": (
        {"output": "NetworkOutput(logits, [maps], maps)"},
        f"{NETWORK} embedding [batch, features], but for a batch of one they are [1, 4, 6, 6]",
    ),
    "an embedding among the maps": (
        {"output": "NetworkOutput(logits, [maps, embedding], embedding)"},
        f"{NETWORK} features [batch, channels, height, width], but for a batch of one they are [1, 4]",
    ),
    "a mean over the batch": (
        {"output": "NetworkOutput(logits[0], [maps], embedding)"},
        f"{NETWORK} logits [batch, classes], but for a batch of one they are [10]",
    ),
}  # fmt: skip


def run(command: Command, plugin: Plugin, tiny_words: list[str], **wrong: str) -> tuple[int, str]:
    parts = PARTS
    for name, value in {**RIGHT, **wrong}.items():
        parts = parts.replace(f"{{{name}}}", value)
    plugin("own_parts_with_mistakes", parts)
    code, _, error = command(
        "run", "plugins=[own_parts_with_mistakes]", "objective=hkd_kd", "+objective.own.name=own",
        "builder={name: own}", "student=own", "objective.hkd.dim=8", "negatives=16",
        *(word for word in tiny_words if not word.startswith("student=")),
    )  # fmt: skip
    return code, error


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_a_part_is_told_in_one_line(
    kind: str, command: Command, plugin: Plugin, tiny_words: list[str]
) -> None:
    wrong, reason = MISTAKES[kind]
    code, error = run(command, plugin, tiny_words, **wrong)
    assert code == 2, error
    (line,) = [line for line in error.splitlines() if line.startswith("graphkd: ")]
    assert reason in line


def test_without_a_mistake_they_train(command: Command, plugin: Plugin, tiny_words: list[str]) -> None:
    code, error = run(command, plugin, tiny_words)
    assert code == 0, error


@pytest.mark.parametrize(
    "form", ["@dataclass(frozen=True)\nclass Own(GraphBuilder):", "class Own(nn.Module, GraphBuilder):"]
)
def test_builders_of_all_forms_are_checked_once(form: str) -> None:
    names: dict[str, Any] = {"dataclass": dataclass, "GraphBuilder": GraphBuilder, "nn": nn, "BatchGraph": BatchGraph}
    exec(f"{form}\n    def build(self, nodes):\n        return BatchGraph.from_adjacency(nodes.logits > 0)", names)
    builder = names["Own"]()
    with pytest.raises(UserError, match="graph builder Own: 1 of 2 samples have no self loop"):
        builder.build_checked(Nodes(torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    loops = builder.build_checked(Nodes(torch.eye(2)))
    assert loops.num_targets == 2
    assert builder.build_checked(Nodes(torch.zeros(2, 2))).num_targets == 2, (
        "the first that is right is the last checked"
    )
