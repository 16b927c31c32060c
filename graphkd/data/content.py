"""Hashes of what files hold, kept so that only files that have changed are read again."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from graphkd.errors import UserError, check
from graphkd.files import hash_file, write_atomically

_WIDTH = 32  # bytes of a SHA-256
_FILES = 256  # read by a thread at a time
_THREADS = 16
_SETTLED_NS = 2 * 10**9  # the coarsest time stamps of file systems in use (FAT)
_NEVER = b"\0" * _WIDTH

_read: dict[tuple[Path, str], np.ndarray] = {}
"""Hashes that this process has computed: one of each file's facts and one of its content, uint8 [n, 64]."""


@dataclass(frozen=True)
class Contents:
    """The contents of files, each told by its SHA-256.

    A file is not read again while its name, size, inode and times of change (`mtime` and `ctime`) are the same. No
    program can set `ctime`, so a file that is written anew is seen even where its modification time is put back. A
    file that changed less than two seconds before it was read is not remembered: a second change could bear the same
    time stamp.

    Args:
        files: Their paths.
        base: The folder that names are relative to.
        cache: Where the hashes are kept between processes; None for nowhere.
        name: Distinguishes the files from others with the same base.
    """

    files: Sequence[str]
    base: Path
    cache: Path | None
    name: str = ""

    def hashes(self) -> list[bytes]:
        """Return the SHA-256 of each file; zeros for one that cannot be read, which is reported when it is decoded.

        Raises:
            UserError: One is missing, or is not a regular file.
        """
        return [row.tobytes() for row in self._table()[:, _WIDTH:]]

    def keep(self) -> None:
        """Write the hashes to the cache's folder, which is made, if they are not there.

        Raises:
            OSError: They cannot be written.
        """
        table, place = self._table(), self._place
        if place is None:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if not np.array_equal(_load(place), table):
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
        known = _read[key] if key in _read else _load(self._place)
        if not np.array_equal(known[:, :_WIDTH], facts):
            known = self._updated(known, facts)
            unreadable = (known[:, _WIDTH:] == 0).all(1)
            known[~settled | unreadable, :_WIDTH] = 0
        _read[key] = known
        return known

    def _facts(self, now: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a hash of each file's name, size, times and inode, uint8 [n, 32], and whether it may be relied on."""
        prefix = os.path.join(self.base, "")
        facts, settled = bytearray(), np.empty(len(self.files), dtype=bool)
        for index, file in enumerate(self.files):
            try:
                found = os.stat(file)
            except OSError as error:
                raise UserError(f"{file} cannot be read ({error.strerror})") from error
            check(stat.S_ISREG(found.st_mode), f"{file} is not a regular file")
            told = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            facts += hashlib.sha256(os.fsencode(f"{file.removeprefix(prefix)}\0{told}")).digest()
            settled[index] = max(found.st_mtime_ns, found.st_ctime_ns) < now - _SETTLED_NS
        return np.frombuffer(facts, dtype=np.uint8).reshape(-1, _WIDTH), settled

    def _updated(self, known: np.ndarray, facts: np.ndarray) -> np.ndarray:
        """Return a table with these facts; only files whose facts are not known are read."""
        hashes = {row[:_WIDTH].tobytes(): row[_WIDTH:].tobytes() for row in known}
        hashes.pop(_NEVER, None)
        keys = [row.tobytes() for row in facts]
        missing = {key: file for key, file in zip(keys, self.files, strict=True) if key not in hashes}
        with ThreadPool(_THREADS) as pool:
            hashes.update(zip(missing, pool.map(_sha256, missing.values(), chunksize=_FILES), strict=True))
        contents = np.frombuffer(b"".join(hashes[key] for key in keys), dtype=np.uint8).reshape(-1, _WIDTH)
        return np.concatenate([facts, contents], axis=1)


def _load(place: Path | None) -> np.ndarray:
    """Return a table from its file; an empty one where there is none or it is broken."""
    try:
        table = np.load(place, allow_pickle=False) if place is not None else None
    except (OSError, ValueError, EOFError):
        table = None
    if isinstance(table, np.ndarray) and table.dtype == np.uint8 and table.shape[1:] == (2 * _WIDTH,):
        return table
    return np.empty((0, 2 * _WIDTH), dtype=np.uint8)


def _sha256(file: str) -> bytes:
    try:
        return hash_file(file)
    except OSError:
        return _NEVER
