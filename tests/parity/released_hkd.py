"""Runs the released code of HKD (wyc-ruiker/HKD on GitHub) from its own `main`, patched only from outside.

None of its files is changed. Patched are: what needs a GPU, what newer versions of torch refuse, its data, and its log.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from graphkd.data import Dataset
from graphkd.engine.seeding import generator
from graphkd.graph import load_dgl

NAMES = {
    "embed_s.linear": "student_head",
    "embed_t.linear": "teacher_head",
    "gnn_s.conv1": "student_gnn.convolutions.0",
    "gnn_t.conv1": "teacher_gnn.convolutions.0",
    "contrast.memory_l": "student_bank",
    "contrast.memory_ab": "teacher_bank",
}


class Training(NamedTuple):
    """The loss of each step, the test accuracy after each epoch in percent, and the last tensors.

    The tensors are the student's ("student.") and the loss's with its banks ("hkd."), by graphkd's names.
    """

    losses: list[float]
    top1: list[float]
    tensors: Mapping[str, Tensor]


class Loader:
    """Batches as the released loop takes them, in graphkd's order of each epoch.

    The negatives are those of each sample in each epoch, int64 [epochs, N, K].
    """

    def __init__(self, dataset: Dataset, batch_size: int, negatives: Tensor, seed: int) -> None:
        self.dataset, self.batch_size, self.negatives, self.seed = dataset, batch_size, negatives, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.dataset.num_train_batches(self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(self.dataset.train_labels), generator=generator(self.seed, "order", self.epoch))
        for batch in self.dataset.train_batches(order, self.batch_size, 0, "cpu"):
            yield *batch, self.negatives[self.epoch, batch.indices]
        self.epoch += 1


def run(
    checkout: Path, options: Mapping[str, object], loader: Loader, folder: Path, start: Mapping[str, Tensor]
) -> Training:  # fmt: skip
    """Train with the `train_student.py` of a checkout and its command-line options, on the loader's data set.

    It writes its files into the folder, and its initial tensors are copied to `start`, named as in `Training`.
    """
    test = [batch[:2] for batch in loader.dataset.eval_batches("test", 256, "cpu")]
    loaders = (loader, test, len(loader.dataset.train_labels))
    log: dict[str, list[float]] = {}
    modules: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch, recorded_losses() as losses:
        _patch_libraries(patch, log)
        patch.chdir(folder)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        patch.setattr(sys, "argv", ["train_student.py", *words])
        script = _imported(checkout, patch)
        train = script.train

        def noting(epoch: int, batches: Loader, networks: nn.ModuleList, terms: nn.ModuleList, *rest: Any) -> Any:
            if epoch == 1:
                modules.extend([networks[0], terms[2]])
                for name, tensor in _tensors(*modules).items():
                    start[name].copy_(tensor)
            return train(epoch, batches, networks, terms, *rest)

        patch.setattr(script, "train", noting)
        patch.setattr(script, "get_cifar100_dataloaders_sample", lambda **_: loaders)
        script.main()
    return Training(losses, log["test_acc"], _tensors(*modules))


@contextmanager
def recorded_losses() -> Iterator[list[float]]:
    """Note the value of every tensor that is differentiated in this context."""
    losses: list[float] = []
    backward: Callable[..., None] = Tensor.backward

    def noting(loss: Tensor, *args: Any, **options: Any) -> None:
        losses.append(loss.item())
        backward(loss, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "backward", noting)
        yield losses


def _patch_libraries(patch: pytest.MonkeyPatch, log: dict[str, list[float]]) -> None:
    """Keep all on the CPU, transposed matrices contiguous for the `view` in `accuracy`, and the log in a mapping."""
    transposed = Tensor.t
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(Tensor, "cuda", lambda self: self)
    patch.setattr(nn.Module, "cuda", lambda self: self)
    patch.setattr(load_dgl().DGLGraph, "to", lambda self, device: self)
    patch.setattr(Tensor, "t", lambda self: transposed(self).contiguous())
    logger = SimpleNamespace(log_value=lambda name, value, epoch: log.setdefault(name, []).append(float(value)))
    tensorboard: Any = SimpleNamespace(Logger=lambda **_: logger)
    patch.setitem(sys.modules, "tensorboard_logger", tensorboard)


def _imported(checkout: Path, patch: pytest.MonkeyPatch) -> Any:
    """Return the module `train_student`; what it imports has common names, so nothing stays in `sys.modules`."""
    patch.syspath_prepend(checkout)
    before = set(sys.modules)
    script = importlib.import_module("train_student")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(checkout)):
            del sys.modules[name]
    return script


def _tensors(student: nn.Module, loss: nn.Module) -> dict[str, Tensor]:
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    for name, tensor in loss.state_dict().items():
        part = next(part for part in NAMES if name.startswith(part))
        tensors[f"hkd.{NAMES[part]}{name.removeprefix(part)}"] = tensor
    return tensors
