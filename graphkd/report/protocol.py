"""How a number came about: what must be equal for two of them to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_TEACHERS = {
    "none": "no teacher",
    "own": "own teacher",
    "file": "teacher from a file",
    "published": "published teacher",
    "unknown": "teacher not known",
}
_REPORTED = {
    "last": "last epoch",
    "best_val": "best epoch on validation",
    "best_test": "best epoch on test",
    "unknown": "epoch not known",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a student was trained, and which of its epochs a figure is of.

    Attributes:
        epochs: Epochs of its training; None where not known, for published figures.
        batch_size: Samples a batch, or None.
        views: Views of each sample in a batch, or None.
        augmentation: What training images go through, for example "crop+flip".
        teacher: Where the teacher's weights are from: trained by graphkd (`own`), a `file` of the user's, or the
            benchmark's `published` ones.
        reported: The epoch that accuracies are of.
        samples_per_class: Size of the groups of a class's samples in a batch; 1 where it is drawn from all samples.
    """

    epochs: int | None
    batch_size: int | None
    views: int | None
    augmentation: str
    teacher: Literal["none", "own", "file", "published", "unknown"]
    reported: Literal["last", "best_val", "best_test", "unknown"]
    samples_per_class: int = 1

    def __str__(self) -> str:
        """Return it in a line; what is not known is said."""
        return f"{self.training}, {_REPORTED[self.reported]}"

    @property
    def training(self) -> str:
        """All but the epoch that is reported, in a line."""
        epochs = "epochs not known" if self.epochs is None else f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        batch = "" if self.batch_size is None else f"batch {self.batch_size}, "
        if self.samples_per_class > 1:
            batch += f"in groups of {self.samples_per_class} of a class, "
        views = "views not known" if self.views is None else f"{self.views} view{'s' * (self.views != 1)}"
        return f"{epochs}, {batch}{views}, {self.augmentation}, {_TEACHERS[self.teacher]}"
