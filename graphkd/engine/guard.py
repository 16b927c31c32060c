"""Checks for losses and weights that are NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from graphkd.engine.callback import Callback, History
from graphkd.engine.ranks import Ranks
from graphkd.objective import Losses

LOOK_EVERY = 100
"""Steps between checks on a device that works ahead of the host; on a CPU every step is checked."""

_HINT = "the last checkpoint is kept; lower the trainer's lr or momentum, or set its clip_norm"


class NotFiniteError(RuntimeError):
    """A loss or weight is NaN or infinite."""


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """Return the names of the floating-point tensors with NaN or infinity in nested mappings, such as a state dict."""
    tensors = dict(_floating(state))
    if not tensors:
        return []
    device = next(iter(tensors.values())).device
    # The largest magnitudes: this copies no tensor, cannot overflow, and waits for the device once.
    norms = [torch.linalg.vector_norm(tensor, math.inf).to(device, torch.float64) for tensor in tensors.values()]
    sound = torch.stack(norms).isfinite().tolist()
    return [name for name, good in zip(tensors, sound, strict=True) if not good]


def _floating(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _floating(value))
        elif isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            yield name, value.detach()


class Guard:
    """Stops a training whose loss or weights are not finite; `skip` skips steps with such a loss instead.

    On CUDA `stop` checks every 100 steps and before every checkpoint, so that steps do not wait for the device; `skip`
    waits in every step.
    """

    def __init__(self, device: torch.device, what: Literal["stop", "skip"], callback: Callback) -> None:
        """Create a guard for one training."""
        self._what = what
        self._callback = callback
        self._at_once = device.type == "cpu" or what == "skip"
        self._unseen: list[tuple[int, float, dict[str, Tensor]]] = []
        self._sound = "at the start"

    def check(self, losses: Losses, step: int, lr: float) -> bool:
        """Return whether to apply this step.

        Raises:
            NotFiniteError: A loss so far is not finite, and the training is to stop.
        """
        terms = {"total": losses.total, **losses.raw}
        self._unseen.append((step, lr, {name: value.detach() for name, value in terms.items()}))
        if not self._at_once and len(self._unseen) < LOOK_EVERY:
            return True
        return self.look()

    def look(self) -> bool:
        """Return whether all losses since the last call are finite.

        Raises:
            NotFiniteError: One is not, and the training is to stop.
        """
        steps, self._unseen = self._unseen, []
        if not steps or bool(torch.stack([terms["total"] for _, _, terms in steps]).isfinite().all()):
            return True
        message = _message(*next(step for step in steps if not step[2]["total"].isfinite()))
        if self._what == "stop":
            hint = "the last checkpoint is kept (trainer.non_finite=skip leaves such steps out)"
            raise NotFiniteError(f"{message}; {hint}")
        self._callback.note(f"{message}; the step is left out")
        return False

    def check_weights(self, state: Mapping[str, Any], steps: int, ranks: Ranks) -> None:
        """Check parameters, statistics and banks (collective).

        Args:
            state: Tensors by name, in nested mappings.
            steps: Number of optimizer steps so far, for the message.
            ranks: The processes of the training.

        Raises:
            NotFiniteError: A tensor has NaN or infinity, on any rank.
        """
        bad = not_finite(state)
        if ranks.all_reduce_max(len(bad)):
            named = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "") if bad else "on another rank"
            found = f"the weights are not finite after {steps} steps ({named})"
            raise NotFiniteError(f"{found}; they were last finite {self._sound}; {_HINT}")
        self._sound = f"after {steps} steps"

    def check_outputs(self, history: History) -> None:
        """Check that a step was applied, and the last test loss: finite weights may be too large for finite outputs.

        Raises:
            NotFiniteError: None was, or the loss is NaN or infinite.
        """
        if history.steps == 0:
            raise NotFiniteError(
                "no step was applied: every loss was NaN or infinite, or overflowed float16; lower trainer.lr or use "
                "precision=32 or bf16"
            )
        test = history.epochs[-1].test
        if test is not None and not math.isfinite(test.nll):
            raise NotFiniteError(f"the network's outputs are not finite after {history.steps} steps; {_HINT}")


def _message(step: int, lr: float, terms: dict[str, Tensor]) -> str:
    values = {name: value.item() for name, value in terms.items()}
    total = values.pop("total")
    bad = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
    cause = bad or "every term is finite, but their weighted sum is not"
    return f"the loss is {total} at step {step} with learning rate {lr:g}: {cause}"
