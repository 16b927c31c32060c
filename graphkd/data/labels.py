"""Labels of several files, matched by the names of their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphkd.data.base import check_classes, first_few
from graphkd.errors import UserError, check

Splits = Mapping[str, Sequence["FileLabels"]]


@dataclass(frozen=True)
class FileLabels:
    """The labels of one file.

    Attributes:
        file: The file.
        values: Numbers, int64 [N], or texts, object [N].
        names: Names of the numbers 0, 1, ... in the file; None for texts, and where it has none.
    """

    file: Path
    values: np.ndarray
    names: tuple[str, ...] | None = None

    @property
    def are_texts(self) -> bool:
        """Whether the labels are the names of their classes."""
        return self.values.dtype == object

    @property
    def are_bare(self) -> bool:
        """Whether the labels are numbers without names."""
        return not self.are_texts and self.names is None

    def name(self, value: Any) -> str | None:
        """Return the name of the class of a label; None for a number beyond the file's names."""
        if self.names is None:
            return str(value)
        return self.names[value] if 0 <= value < len(self.names) else None

    def places(self, names: tuple[str, ...]) -> np.ndarray:
        """Return the place of each label's class in `names`, int64 [N]; -1 where it is not there.

        Raises:
            UserError: A name that stands for two classes would have to be matched.
        """
        if self.names == names:
            return np.where((self.values >= 0) & (self.values < len(names)), self.values, -1)
        twice = [name for known in (names, self.names or ()) for name, count in Counter(known).items() if count > 1]
        check(not twice, f"two classes are named '{first_few(twice, 1)}', so {self.file} cannot be matched by name")
        place: dict[str | None, int] = {name: number for number, name in enumerate(names)}
        found = (place.get(self.name(value), -1) for value in self.values.tolist())
        return np.fromiter(found, np.int64, len(self.values))


class Numbered(NamedTuple):
    """The name of each class, the class of each split's samples (int64 [N]), and notes for the user."""

    class_names: tuple[str, ...]
    labels: dict[str, Tensor]
    notes: tuple[str, ...]


def number_labels(splits: Splits, column: str, num_classes: int | None, relabel: bool) -> Numbered:
    """Match the labels of all files by the names of their classes.

    The classes are those that the first training file with names has; without one, the texts of the training split
    in alphabetical order; without these, 0 to `num_classes` - 1. Numbers without names count as in the first file
    with names, and a note says so.

    Args:
        splits: The labels of each split's files, of "train" at least; no split is empty.
        column: Name of the labels in messages.
        num_classes: How many classes there must be; None for any number.
        relabel: Keeps the classes of the training labels only, in their order.

    Raises:
        UserError: Labels are out of range, of a class that the training split lacks, or cannot be matched.
    """
    splits, notes = _with_names(splits, column, num_classes, relabel)
    train = splits["train"]
    namer = next((part for part in train if part.names), None)
    texts = sorted({value for part in train for value in part.values.tolist()}) if namer is None else ()
    names = (namer and namer.names) or tuple(map(str, texts))
    places = {name: [part.places(names) for part in split] for name, split in splits.items()}
    shown = np.unique(np.concatenate(places["train"]))
    shown = shown[shown >= 0]
    class_names = tuple(names[place] for place in shown) if relabel else names
    source = "the training labels are" if namer is None or relabel else f"{namer.file} names"
    fits = num_classes in (None, len(class_names))
    check(fits, f"num_classes is {num_classes}, but {source} {len(class_names)} classes")
    check_classes(len(class_names), str(train[0].file))
    lacking = f"a class that the training split lacks; {train[0].file} has {first_few([names[at] for at in shown])}"
    for name, split in splits.items():
        for part, found in zip(split, places[name], strict=True):
            _check_rows(np.flatnonzero(found < 0), part, column, lacking)
            _check_rows(np.flatnonzero(~np.isin(found, shown)), part, column, lacking)
    numbers = {name: np.concatenate(found) for name, found in places.items()}
    if relabel:
        numbers = {name: np.searchsorted(shown, found) for name, found in numbers.items()}
    return Numbered(class_names, {name: torch.from_numpy(found) for name, found in numbers.items()}, notes)


def _with_names(splits: Splits, column: str, num_classes: int | None, relabel: bool) -> tuple[Splits, tuple[str, ...]]:
    """Return the labels with names for all numbers, unless these are to be their own names, and notes on it."""
    every = [part for split in splits.values() for part in split]
    bare = [part for part in every if part.are_bare]
    texts = [part for part in every if part.are_texts]
    if not bare:
        return splits, ()
    if texts and not any(part.names for part in splits["train"]):
        raise UserError(f"column '{column}' is of another type in {texts[0].file} than in {bare[0].file}")
    namer = next((part for part in every if part.names), None)
    names: tuple[str, ...] | None = namer.names if namer else None
    notes: tuple[str, ...] = ()
    if namer is not None and names is not None:
        more = f" (nor do {len(bare) - 1} other files)" if len(bare) > 1 else ""
        called = first_few([f"{number} is {name}" for number, name in enumerate(names)])
        notes = (f"{bare[0].file} does not name its classes{more}: its labels count as in {namer.file}, {called}",)
    elif not relabel:
        names = tuple(str(label) for label in range(num_classes or _count(splits["train"], column)))
    named = {
        split: [replace(part, names=names) if part.are_bare else part for part in parts]
        for split, parts in splits.items()
    }
    return named, notes


def _count(train: Sequence[FileLabels], column: str) -> int:
    """Return the number of classes in training labels; a column of other numbers (times, identifiers) has too many."""
    count = max(int(part.values.max(initial=0)) for part in train) + 1
    rows = sum(len(part.values) for part in train)
    check(
        count <= rows,
        f"column '{column}' of {train[0].file} goes up to {count - 1} in {rows} training rows: data.num_classes=N if "
        "there are so many classes, data.relabel=true if only these labels are classes, else another data.label_column",
    )
    return count


def _check_rows(wrong: np.ndarray, part: FileLabels, column: str, lacking: str) -> None:
    if len(wrong):
        value = part.values[wrong[0]]
        name = part.name(value)
        why = f"but labels must lie in 0 .. {len(part.names or ()) - 1}" if name is None else lacking
        known = f" ({first_few([name])})" if name not in (None, str(value)) else ""
        raise UserError(
            f"row {wrong[0]} of {part.file}: column '{column}' is {value}{known}, {why} ({len(wrong)} such rows)"
        )
