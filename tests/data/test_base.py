"""What all data sets have in common."""

from __future__ import annotations

import torch

from graphkd.data.base import missing_class_notes


def test_classes_that_a_split_lacks_are_named() -> None:
    names = [f"class {number}" for number in range(9)]
    labels = {"train": torch.tensor([0, 1, 3, 4, 5, 6, 7, 8]), "val": torch.arange(9), "test": torch.tensor([8, 8])}
    assert missing_class_notes(labels, names) == (
        "1 of 9 classes have no train image: class 2",
        "7 of 9 classes have no test image: class 0, class 1, class 3, class 4, class 5 and 2 more",
    )
    assert missing_class_notes({"test": torch.tensor([0])}, ["a", "b\nc"]) == (
        "1 of 2 classes have no test image: b c",
    )
    assert missing_class_notes({"train": torch.arange(2), "test": torch.arange(2)}, ["a", "b"]) == ()
