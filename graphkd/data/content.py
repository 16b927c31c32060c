"""Hashes of what files hold, kept so that only files that have changed are read again."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphkd.errors import UserError, check
from graphkd.files import write_atomically

_WIDTH = 32  # bytes of a SHA-256
_BLOCK = 2**20
_FILES = 256  # read by a thread at a time
_THREADS = 16
_SETTLED_NS = 2 * 10**9  # the coarsest time stamps of file systems in use (FAT)
_NEVER = b"\0" * _WIDTH

_read: dict[tuple[Path, str], np.ndarray] = {}
"""What this process has hashed: for each file a hash of its facts and one of its content, uint8 [n, 64]."""


@dataclass(frozen=True)
class Contents:
    """The contents of files, each told by its SHA-256.

    A file is not read again while its name, size, times of change (`mtime` and `ctime`, in nanoseconds) and inode are
    the same. No program can set `ctime`, so a file that is written anew is seen even where its modification time is
    put back. Files that changed less than two seconds before they were read are not remembered, since a second change
    could bear the same time stamp; only one within the stamp of a clock that runs behind by more is missed.

    Args:
        files: Their paths.
        base: The folder that names are relative to.
        cache: Where the hashes are kept between processes; None for nowhere.
        name: What tells the files from others with the same base.
    """

    files: Sequence[str]
    base: Path
    cache: Path | None
    name: str = ""

    def hashes(self) -> list[bytes]:
        """Return the SHA-256 of each file; zeros for one that cannot be read, which is told where it is decoded.

        Raises:
            UserError: One is missing, or is no regular file.
        """
        return [row.tobytes() for row in self._table()[:, _WIDTH:]]

    def keep(self) -> None:
        """Write the hashes to the cache's folder, which must exist, if they are not there.

        Raises:
            OSError: They cannot be written.
        """
        table, place = self._table(), self._place
        if place is not None and not _equal(_load(place), table):
            content = io.BytesIO()
            np.save(content, table, allow_pickle=False)
            write_atomically(place, content.getvalue(), durable=False)

    @property
    def _place(self) -> Path | None:
        if self.cache is None:
            return None
        which = f"{os.path.relpath(self.base, self.cache)}\0{self.name}"
        return self.cache / f"graphkd-{hashlib.sha256(os.fsencode(which)).hexdigest()[:12]}.hashes.npy"

    def _table(self) -> np.ndarray:
        now = time.time_ns()
        facts, settled = self._facts(now)
        key = (self.base, self.name)
        known = _read.get(key)
        if known is None and self._place is not None:
            known = _load(self._place)
        if known is None or not _equal(known[:, :_WIDTH], facts):
            known = self._updated(known, facts)
            unreadable = (known[:, _WIDTH:] == 0).all(1)
            known[~settled | unreadable, :_WIDTH] = 0
        _read[key] = known
        return known

    def _facts(self, now: int) -> tuple[np.ndarray, np.ndarray]:
        """A hash of what tells whether each file has changed, uint8 [n, 32], and whether it may be relied on."""
        prefix = os.path.join(self.base, "")
        facts, settled = bytearray(), np.empty(len(self.files), dtype=bool)
        for index, file in enumerate(self.files):
            found = _stat(file)
            told = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            facts += hashlib.sha256(os.fsencode(f"{file.removeprefix(prefix)}\0{told}")).digest()
            settled[index] = max(found.st_mtime_ns, found.st_ctime_ns) < now - _SETTLED_NS
        return np.frombuffer(facts, dtype=np.uint8).reshape(-1, _WIDTH), settled

    def _updated(self, known: np.ndarray | None, facts: np.ndarray) -> np.ndarray:
        old = {} if known is None else {row[:_WIDTH].tobytes(): row[_WIDTH:].tobytes() for row in known}
        old.pop(_NEVER, None)
        hashes = [old.get(row.tobytes()) for row in facts]
        missing = [index for index, known_hash in enumerate(hashes) if known_hash is None]
        parts = [missing[start : start + _FILES] for start in range(0, len(missing), _FILES)]
        with ThreadPoolExecutor(_THREADS) as pool:
            for part, found in zip(parts, pool.map(self._hash, parts), strict=True):
                for index, content in zip(part, found, strict=True):
                    hashes[index] = content
        contents = np.frombuffer(b"".join(filter(None, hashes)), dtype=np.uint8).reshape(-1, _WIDTH)
        return np.concatenate([facts, contents], axis=1)

    def _hash(self, part: Sequence[int]) -> list[bytes]:
        return [_sha256(self.files[index]) for index in part]


def _equal(known: np.ndarray | None, table: np.ndarray) -> bool:
    return known is not None and np.array_equal(known, table)


def _load(place: Path) -> np.ndarray | None:
    """A table from its file; None where there is none or it is broken."""
    try:
        table = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = isinstance(table, np.ndarray) and table.dtype == np.uint8 and table.ndim == 2
    return table if sound and table.shape[1] == 2 * _WIDTH else None


def _stat(file: str) -> os.stat_result:
    """Size and times of a file that can be read: no pipe, and no link to nowhere or to itself."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    check(stat.S_ISREG(found.st_mode), f"{file} is no regular file")
    return found


def _sha256(file: str) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(file, "rb", buffering=0) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError:
        return _NEVER
    return digest.digest()
