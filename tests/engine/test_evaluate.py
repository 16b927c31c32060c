from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphkd import UserError
from graphkd.batch import NetworkOutput
from graphkd.data import Dataset, Split, TensorDataset
from graphkd.engine.evaluate import evaluate
from graphkd.model import Network


class Fixed(Network):
    """Returns rows of a table: those that the first pixel of each image names."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, images: Tensor) -> NetworkOutput:
        rows = (images[:, 0, 0, 0] * 255).round().long()
        return NetworkOutput(self.table[rows], [], images.flatten(1))


def numbered(labels: Tensor, classes: int) -> Dataset:
    """Images whose pixels are their own number."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    split = Split(images.contiguous(), labels)
    return TensorDataset({"train": split, "test": split}, [str(name) for name in range(classes)], (0.0,), (1.0,))


def logits(samples: int, classes: int, seed: int) -> Tensor:
    return 3 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 9])
def test_equals_a_naive_count(classes: int) -> None:
    samples = 40
    labels = torch.arange(samples) % classes
    mine, others = logits(samples, classes, 0), logits(samples, classes, 1)
    found = evaluate(Fixed(mine), numbered(labels, classes), teacher=Fixed(others), batch_size=7)
    top1 = agreeing = nll = 0.0
    top5 = 0
    for row, other, label in zip(mine.tolist(), others.tolist(), labels.tolist(), strict=True):
        best = sorted(range(classes), key=row.__getitem__, reverse=True)
        top1 += best[0] == label
        top5 += label in best[:5]
        agreeing += best[0] == max(range(classes), key=other.__getitem__)
        nll += math.log(sum(math.exp(value) for value in row)) - row[label]
    assert found.samples == samples
    assert (found.top1, found.nll, found.agreement) == pytest.approx(
        (100 * top1 / samples, nll / samples, 100 * agreeing / samples)
    )
    assert found.top5 == (None if classes <= 5 else pytest.approx(100 * top5 / samples))


def test_without_a_teacher_there_is_no_agreement() -> None:
    assert evaluate(Fixed(logits(12, 3, 0)), numbered(torch.arange(12) % 3, 3)).agreement is None


def test_agrees_fully_with_itself(digits: Dataset, network: Callable[..., Network]) -> None:
    student = network()
    assert evaluate(student, digits, teacher=student).agreement == 100


def test_does_not_depend_on_the_batch_size(digits: Dataset, network: Callable[..., Network]) -> None:
    student = network()
    small, large = (evaluate(student, digits, "val", batch_size=size) for size in (50, 1000))
    assert (small.top1, small.top5, small.samples) == (large.top1, large.top5, large.samples)
    assert small.nll == pytest.approx(large.nll)


def test_runs_in_eval_mode_and_changes_nothing(digits: Dataset, network: Callable[..., Network]) -> None:
    student, teacher = network().train(), network(1).train()
    next(iter(student.children())).eval()  # a part in a mode of its own
    networks = (student, teacher)
    modes = [[module.training for module in each.modules()] for each in networks]
    states = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in networks]
    first = evaluate(student, digits, teacher=teacher)
    assert [[module.training for module in each.modules()] for each in networks] == modes
    for each, before in zip(networks, states, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in each.state_dict().items())
    assert first == evaluate(student.eval(), digits, teacher=teacher.eval())


def test_a_split_that_is_not_there_is_named(digits: Dataset, network: Callable[..., Network]) -> None:
    with pytest.raises(UserError, match="no split 'vall'"):
        evaluate(network(), digits, "vall")
