"""Folders to write in, files that appear whole or not at all, and hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphkd.errors import UserError, check

_BLOCK = 1 << 20


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder for writing, and its missing parents.

    Raises:
        UserError: A file is in the way, or it cannot be written in.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror} ({error.filename})") from error
    check(os.access(folder, os.W_OK | os.X_OK), f"the folder {folder} cannot be written in")


def read_small(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a file that ought to be small; what is larger is never read.

    Args:
        path: The file.
        most: How many bytes it may have, whole MiB.

    Raises:
        UserError: It cannot be read, is not a regular file, or is larger.
    """
    try:
        found = os.stat(path)
        check(stat.S_ISREG(found.st_mode), "is not a regular file")
        check(found.st_size <= most, f"is larger than {most >> 20} MiB")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    check(len(content) <= most, f"is larger than {most >> 20} MiB")  # it grew, or is of a kind that has no size
    return content


def hash_file(path: str | os.PathLike[str], algorithm: str = "sha256") -> bytes:
    """Return the hash of a file's content, read block by block (`hashlib.file_digest` is newer than Python 3.10).

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def real_folder(folder: Path) -> Path:
    """Return where a folder really is if it is a link, so that it is followed and never replaced; else the folder.

    Raises:
        UserError: A symbolic link on the way points back to itself.
    """
    try:
        real = folder.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"the folder {folder} cannot be resolved: a symbolic link points back to itself") from error
    return real if folder.is_symlink() else folder


@contextlib.contextmanager
def folder_if_used(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder as `make_folder` does; on exit remove those that were made and are still empty.

    Raises:
        UserError: As in `make_folder`.
    """
    places = (Path(folder), *Path(folder).parents)
    missing = [place for place in places if not os.path.lexists(place)]
    try:
        make_folder(folder)
        yield
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


Content = bytes | str | Sequence[bytes | memoryview]


def write_atomically(path: str | os.PathLike[str], content: Content, durable: bool = True) -> None:
    """Write a file beside `path`, flush it to disk, and rename it into place.

    A reader, also one after a crash, finds the old file or the new one, never a part. A symbolic link at
    `path` is replaced, not followed. The folder must exist.

    Args:
        path: Where the file shall be.
        content: Its bytes, in one or several parts, or a text that is written as UTF-8 with the line ends it has.
        durable: Wait until it is on the disk. Without it a power cut may take the newest version back.

    Raises:
        OSError: The file cannot be written, and why; what was at `path` is untouched and nothing is left beside it.
    """
    content = content.encode() if isinstance(content, str) else content
    parts = [content] if isinstance(content, bytes) else content
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with beside.open("xb") as file:
            file.writelines(parts)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise _failure(target, error) from error
        raise
    if durable:
        _sync_folder(target.parent)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove temporary files of writers that were killed; nobody else may write in the folder."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+-[0-9a-f]{8}\.tmp", path.name):
            path.unlink(missing_ok=True)


def _failure(target: Path, error: OSError) -> OSError:
    """Return an error of the same type whose message names the file."""
    if not target.parent.is_dir():
        return type(error)(f"{target} cannot be written: its folder is gone")
    return type(error)(f"{target} cannot be written: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system can: Windows and some network drives cannot."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
