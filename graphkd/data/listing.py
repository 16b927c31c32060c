"""List the image files of folders `root/<split>/<class>/`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from graphkd.data.base import check_classes
from graphkd.data.content import Contents
from graphkd.data.picture import image_endings
from graphkd.errors import UserError, check, choices, did_you_mean

_LEFT_BY_TOOLS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found", "$recycle.bin", "thumbs.db",
     "desktop.ini", "system volume information"}
)  # fmt: skip
"""Names in lower case that count as hidden, as those do that begin with a dot."""
_LEFT_OUT = {
    "hidden folder": "",
    "hidden file": "",
    "link": " to folders that were read already",
    "image": " outside the folders of the classes",
}
"""Kinds of entries that are left out, each with the words that follow its plural in messages."""


@dataclass(frozen=True)
class Listing:
    """The files of a split, class by class and sorted.

    Attributes:
        folder: The folder of the split.
        class_names: Names of the training split's classes.
        files: The images.
        labels: Class of each image, int64 [n].
    """

    folder: Path
    class_names: tuple[str, ...]
    files: list[str]
    labels: Tensor

    def contents(self, cache: Path | None) -> Contents:
        """Return the contents of the files."""
        return Contents(self.files, self.folder, cache)

    def digest(self, cache: Path | None) -> str:
        """Return the SHA-256 of the classes' names, and of the files' names below the folder and contents."""
        digest = hashlib.sha256(os.fsencode("".join(f"{name}\0" for name in self.class_names)))
        prefix = os.path.join(self.folder, "")
        for file, content in zip(self.files, self.contents(cache).hashes(), strict=True):
            digest.update(os.fsencode(file.removeprefix(prefix)) + b"\0" + content)
        return digest.hexdigest()


@dataclass
class _LeftOut:
    """Count the entries that are no image of a class: by kind, and other files by their endings."""

    kinds: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)

    def note(self) -> tuple[str, ...]:
        """Return a line with the counts; none where nothing was left out."""
        endings = ", ".join(f"{ending} {count}" for ending, count in self.endings.most_common(5))
        counts = {**self.kinds, "file": self.endings.total()}
        told = [
            f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}{more}"
            for kind, more in {**_LEFT_OUT, "file": f" of other kinds ({endings})"}.items()
            if counts.get(kind)
        ]
        return (f"left out {', '.join(told)}",) if told else ()


def list_splits(root: str, given: Mapping[str, str | None]) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """Return the files of each split that is given, labelled by the training split's classes, and notes on them.

    Args:
        root: The folder of all splits.
        given: The folder of each split below it; None for a split that there is not.

    Raises:
        UserError: A folder is missing, empty or cannot be read, or a split has classes that the training split lacks.
    """
    folder = Path(os.path.expanduser(root))
    check(folder.is_dir(), f"data.root: there is no folder {root}")
    left_out = _LeftOut()
    found = {name: _list_split(folder, name, below, left_out) for name, below in given.items() if below is not None}
    places = {name: folder / below for name, below in given.items() if below is not None}
    train = found["train"]
    taught = [name for name, files in train.items() if files]
    for name, classes in found.items():
        told = "; ".join(("", *left_out.note()))
        check(any(classes.values()), f"{places[name]} is empty: no image in {', '.join(list(classes)[:5])}{told}")
        strange = [label for label, files in classes.items() if files and label not in taught]
        check(
            not strange,
            f"the classes differ: {places[name]} has {', '.join(strange[:5])}, which {places['train']} lacks or has "
            f"no image of ({len(strange)} in all)",
        )
    check_classes(len(taught), str(places["train"]))
    listings: dict[str, Listing] = {}
    for name, classes in found.items():
        counts = torch.tensor([len(classes.get(label, ())) for label in train])
        files = [file for label in train for file in classes.get(label, ())]
        labels = torch.arange(len(train)).repeat_interleave(counts)
        listings[name] = Listing(places[name], tuple(train), files, labels)
    return listings, left_out.note()


def _list_split(root: Path, name: str, below: str, left_out: _LeftOut) -> dict[str, list[str]]:
    """Return the files of each class, both sorted."""
    folder = root / below
    if not folder.is_dir():
        there = [entry.name for entry in root.iterdir() if entry.is_dir()]
        hint = did_you_mean(below, there) or ("" if name == "train" else f"; data.{name}=null for none")
        raise UserError(f"data.{name}: there is no folder {folder}{hint} (folders of {root}: {choices(there)})")
    _, folders, files = next(os.walk(folder, onerror=_unreadable))
    left_out.kinds["image"] += sum(not _is_hidden(file) and _ending(file) in image_endings() for file in files)
    classes = sorted(name for name in folders if not _is_hidden(name))
    left_out.kinds["hidden folder"] += len(folders) - len(classes)
    check(len(classes) > 0, f"{folder} is empty: images belong in {folder / '<class>'}/")
    return {label: _image_files(folder / label, left_out) for label in classes}


def list_images(folder: Path) -> list[str]:
    """Return the image files below a folder, sorted, without hidden ones.

    Raises:
        UserError: A folder cannot be read.
    """
    return _image_files(folder, _LeftOut())


def _image_files(folder: Path, left_out: _LeftOut) -> list[str]:
    """Return the image files below a class's folder, sorted; a real folder is read once, none that holds this one."""
    seen = {_inode(path) for path in (folder.parent, *folder.resolve().parents)}
    images: list[str] = []
    for path, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        inode = _inode(path)
        if inode in seen:
            folders.clear()
            left_out.kinds["link"] += 1
            continue
        seen.add(inode)
        shown = [name for name in folders if not _is_hidden(name)]
        left_out.kinds["hidden folder"] += len(folders) - len(shown)
        folders[:] = sorted(shown, key=lambda name: (os.path.islink(os.path.join(path, name)), name))
        for name in files:
            if _is_hidden(name):
                left_out.kinds["hidden file"] += 1
            elif _ending(name) in image_endings():
                images.append(os.path.join(path, name))
            else:
                left_out.endings[_ending(name) or "no ending"] += 1
    return sorted(images)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_TOOLS


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _inode(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _unreadable(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror})") from error
