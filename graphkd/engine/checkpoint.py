"""Checkpoints to resume a training from: atomic, checked, and kept until the next one is complete."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from graphkd.errors import UserError, check
from graphkd.files import write_atomically

_MAGIC = b"graphkd checkpoint 2\n"
_HEAD = len(_MAGIC) + 16 + 1 + 64 + 1
_BLOCK = 1 << 24
_KEPT = 2


class Checkpoints:
    """The checkpoints of one training in a folder: the latest and the one before it.

    A file has a line with the format, a line with length and SHA-256 of the rest, and a state of tensors and plain
    values, written by `torch.save` and read by `torch.load(weights_only=True)`.
    """

    def __init__(self, folder: Path, every: str) -> None:
        """Use the checkpoints of an existing folder.

        Args:
            folder: The folder.
            every: How often one is due: "N steps" or "N seconds".

        Raises:
            UserError: `every` is neither.
        """
        self.folder = folder
        self._count, self._unit = parse_every(every)
        self._steps = 0
        self._last = time.monotonic()

    def step(self) -> bool:
        """Count a step; return whether a checkpoint is due after it."""
        self._steps += 1
        passed = self._steps if self._unit == "steps" else time.monotonic() - self._last
        return passed >= self._count

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint and remove all but the latest two.

        Raises:
            OSError: It cannot be written; earlier ones are kept.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        found = self._files()
        number = found[-1][0] + 1 if found else 0
        path = self.folder / f"checkpoint-{number}.pt"
        write_atomically(path, (_head(len(content), hashlib.sha256(content)), content))
        for _, path in found[: 1 - _KEPT]:
            path.unlink(missing_ok=True)
        self._steps, self._last = 0, time.monotonic()

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the state of the latest intact checkpoint, or None, and a line for each damaged one."""
        problems: list[str] = []
        for _, path in reversed(self._files()):
            try:
                return _read(path), problems
            except UserError as error:
                problems.append(str(error))
        return None, problems

    def remove(self) -> None:
        """Remove all checkpoints, once the training is finished."""
        for _, path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[int, Path]]:
        """Return number and path of every checkpoint, the latest last."""
        named = ((re.fullmatch(r"checkpoint-(\d+)\.pt", path.name), path) for path in self.folder.glob("*.pt"))
        return sorted((int(match[1]), path) for match, path in named if match)


def parse_every(text: str) -> tuple[float, str]:
    """Parse an interval such as "500 steps" or "60 seconds" into its number and unit.

    Raises:
        UserError: It is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(steps|seconds)", text)
    named = match is not None and float(match[1]) > 0
    check(named, f"trainer: checkpoint_every is {text!r}, but must be a number of steps or seconds: '500 steps'")
    assert match is not None
    return float(match[1]), match[2]


def _head(length: int, digest: hashlib._Hash) -> bytes:
    return _MAGIC + f"{length:016x} {digest.hexdigest()}\n".encode()


def _read(path: Path) -> dict[str, Any]:
    """Return the state in a file; nothing is loaded before length and checksum have been verified.

    Raises:
        UserError: It cannot be read, is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            check(_is_whole(file), f"the checkpoint {path} is truncated or was altered")
            file.seek(_HEAD)
            state = torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:  # torch raises all kinds of errors on bytes that are no checkpoint
        raise UserError(f"the checkpoint {path} is refused: it holds more than tensors and plain values") from error
    check(isinstance(state, dict), f"the checkpoint {path} does not hold a training state")
    return cast("dict[str, Any]", state)


def _is_whole(file: BinaryIO) -> bool:
    head = file.read(_HEAD)
    length = os.fstat(file.fileno()).st_size - _HEAD
    if head[:-65] != _head(length, hashlib.sha256())[:-65]:
        return False
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return head == _head(length, digest)
