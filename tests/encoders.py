"""Graph encoders for tests: with recorded weights, or in all their variants with random ones."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import torch
from golden import Golden, assert_close
from samples import DIM, normal

from graphkd import GNNS, BatchGraph, UserError
from graphkd.gnn import GraphEncoder

MORE_OPTIONS: dict[str, list[Any]] = {"layers": [1, 2], "hops": [0, 1, 2]}
"""Values to try of options that have no list of choices."""


def check_golden(name: str, engine: str, **options: Any) -> None:
    """Compares output, input gradient and tensor names with those that DGL recorded."""
    golden = Golden("encoders")
    recorded = golden.under(name)
    x = golden["x"].requires_grad_()
    encoder = GNNS.build(name, in_dim=x.shape[1], out_dim=recorded["out"].shape[1], engine=engine, **options)
    parameters = golden.under(f"{name}.param")
    assert encoder.convolutions[0].state_dict().keys() == parameters.keys()
    encoder.convolutions[0].load_state_dict(parameters)
    out = encoder.propagate(BatchGraph(golden["src"], golden["dst"], len(x)), x)
    out.square().sum().backward()
    assert_close(out, recorded["out"])
    assert x.grad is not None
    assert_close(x.grad, recorded["grad.x"])


def variants(name: str) -> list[dict[str, Any]]:
    """Every combination of an encoder's choices (but not the engine), flags, and MORE_OPTIONS."""
    values: dict[str, list[Any]] = {}
    for option in GNNS.options(name).values():
        if option.name in MORE_OPTIONS:
            values[option.name] = MORE_OPTIONS[option.name]
        elif option.annotation is bool:
            values[option.name] = [False, True]
        elif typing.get_origin(option.annotation) is typing.Literal and option.name != "engine":
            values[option.name] = list(typing.get_args(option.annotation))
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def widths(name: str) -> list[int]:
    """Output widths to try for inputs of width DIM: smaller, the same and larger, if it need not be the same."""
    try:
        GNNS.build(name, in_dim=DIM, out_dim=2 * DIM)
    except UserError:
        return [DIM]
    return [DIM // 2, DIM, 2 * DIM]


def build(name: str, out_dim: int = DIM, dtype: torch.dtype = torch.float32, **options: Any) -> GraphEncoder:
    """An encoder whose every parameter is random (DGL starts biases at 0, which would hide mistakes)."""
    encoder = GNNS.build(name, in_dim=DIM, out_dim=out_dim, **options).to(dtype)
    with torch.no_grad():
        for turn, parameter in enumerate(encoder.parameters()):
            parameter.copy_(normal(100 + turn, *parameter.shape) / 3)
    return encoder


def in_neighbours(graph: BatchGraph) -> list[list[int]]:
    """The sources of each target's edges."""
    return [row.nonzero().flatten().tolist() for row in graph.adjacency]
