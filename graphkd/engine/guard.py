"""Looks out for losses that are NaN or infinite."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from graphkd.engine.watching import Watcher
from graphkd.objective import Losses

LOOK_EVERY = 100
"""Steps between looks at a device that works ahead of the host; a CPU is looked at in every step."""


class NotFiniteError(RuntimeError):
    """A loss is NaN or infinite."""


class Guard:
    """Stops a training whose loss is not finite, or has the step skipped.

    On CUDA `stop` looks only now and then, and before every checkpoint, so that no step waits for the device; `skip`
    has to wait in every step.
    """

    def __init__(self, device: torch.device, what: Literal["stop", "skip"], watcher: Watcher) -> None:
        """A guard of one training."""
        self._what = what
        self._watcher = watcher
        self._at_once = device.type == "cpu" or what == "skip"
        self._unseen: list[tuple[int, float, dict[str, Tensor]]] = []

    def check(self, losses: Losses, step: int, lr: float) -> bool:
        """Whether to take this step.

        Raises:
            NotFiniteError: One of the steps so far had a loss that is not finite, and the training is to stop.
        """
        self._unseen.append((step, lr, {"total": losses.total.detach(), **losses.raw}))
        if not self._at_once and len(self._unseen) < LOOK_EVERY:
            return True
        return self.look()

    def look(self) -> bool:
        """Looks at the steps since the last look; whether all their losses were finite.

        Raises:
            NotFiniteError: One was not, and the training is to stop.
        """
        steps, self._unseen = self._unseen, []
        if not steps or bool(torch.stack([terms["total"].detach() for _, _, terms in steps]).isfinite().all()):
            return True
        message = _message(*next(step for step in steps if not step[2]["total"].isfinite()))
        if self._what == "stop":
            hint = "the last checkpoint is kept (trainer.non_finite=skip leaves such steps out)"
            raise NotFiniteError(f"{message}; {hint}")
        self._watcher.note(f"{message}; the step is left out")
        return False


def _message(step: int, lr: float, terms: dict[str, Tensor]) -> str:
    values = {name: value.item() for name, value in terms.items()}
    total = values.pop("total")
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return f"the loss is {total} at step {step} with learning rate {lr:g}: {', '.join(bad) or 'by its weights'}"
