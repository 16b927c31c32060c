"""Archives from their official addresses: resumed, checked, and fetched by one process at a time."""

from __future__ import annotations

import contextlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from graphkd.data.cache import alone
from graphkd.errors import UserError, check, one_line
from graphkd.files import hash_file

Progress = Callable[[str, int, "int | None"], None]
"""Called with an archive's name, the bytes received so far, and their total (None if the server does not say)."""

_CHUNK = 2**20
_TIMEOUT = 30  # seconds without a byte
_TRIES = 4  # a broken connection is taken up again where it broke
_BROKEN = (OSError, http.client.HTTPException)
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@dataclass(frozen=True)
class Archive:
    """A file to download: its address, the MD5 sum of its content, and its name in the data folder."""

    url: str
    md5: str
    name: str


@contextlib.contextmanager
def download_progress(callback: Progress) -> Iterator[None]:
    """Let downloads within the context report to `callback`, about once a MiB."""
    token = _progress.set(callback)
    try:
        yield
    finally:
        _progress.reset(token)


def fetch(archive: Archive, root: Path) -> Path:
    """Return an archive's place below `root`; download it unless it is there. No folder is left if nothing came.

    Raises:
        UserError: There is no network, or the file is not the one expected; the message names address and place.
    """
    path = root / archive.name
    try:
        if not path.exists():  # a folder that has it may be read-only: no lock
            with alone(root, f".{archive.name}.lock"):
                if not path.exists():
                    _download(archive, path)
                    return path
    except _BROKEN as error:
        reason = getattr(error, "reason", None)  # of a URLError: what it hides
        cause = one_line(reason if isinstance(reason, BaseException) else error)
        raise UserError(
            f"cannot download {archive.url} ({cause}): try again to go on where it stopped, "
            f"or put the file at {path} by hand"
        ) from error
    found = hash_file(path, "md5").hex()
    check(found == archive.md5, f"{path} has MD5 sum {found}, not {archive.md5}: remove it to download it again")
    return path


def read_tar(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the content of some members of a tar archive; nothing is unpacked to disk.

    Raises:
        UserError: The archive is broken or lacks a member.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name in names and member.isfile() else None
                if content is not None:
                    found[member.name] = content.read()
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} is no readable tar archive ({one_line(error)})") from error
    missing = sorted(set(names) - found.keys())
    check(not missing, f"{archive} lacks {', '.join(missing)}")
    return found


def _download(archive: Archive, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    _complete(archive, part)
    found = hash_file(part, "md5").hex()
    if found == archive.md5:
        os.replace(part, path)
        return
    part.unlink()
    wrong = f"{archive.url} gave a file of MD5 sum {found}, not {archive.md5}"
    check(resumed, f"{wrong}: try again, or put the file at {path} by hand")
    _download(archive, path)  # the part may have been of another file: once more, from the start


def _complete(archive: Archive, part: Path) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            _receive(archive, part)
            return
        except urllib.error.HTTPError:
            raise
        except _BROKEN:
            if not tries_left or not part.exists():
                raise


def _receive(archive: Archive, part: Path) -> None:
    """Append what is missing of the archive to the file `part`."""
    callback = _progress.get()
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing behind `start`: whole already, as the checksum will tell
            return
        raise
    with response:
        if response.status != 206:  # the server starts over
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with part.open("ab" if start else "wb") as file:
            done = start
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if callback is not None:
                    callback(archive.name, done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")
