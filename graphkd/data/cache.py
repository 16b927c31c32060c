"""Decoded data sets in one file, so that images are decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphkd.data.content import Contents
from graphkd.data.decoded import Decoded
from graphkd.data.tensor import Split
from graphkd.errors import one_line

_FORMAT = 1
_NOT_CACHED = "the data are not cached in"


def cached(
    folder: Path | None, options: Mapping[str, Any], source: Callable[[], Any], decode: Callable[[], Decoded]
) -> Decoded:
    """Return what `decode` gives, from the cache in `folder` where it holds this source under these options.

    One process decodes, others that want the same wait for it. A cache that cannot be read is made again; one that
    cannot be written costs a note. Where `decode` fails, nothing is left behind.

    Args:
        folder: Where caches are kept; None for nowhere.
        options: All else that the result depends on; chooses the file.
        source: Returns the values that validate the cache, plain ones that JSON holds.
        decode: Makes the samples.
    """
    if folder is None:
        return decode()
    which = json.dumps({"format": _FORMAT, **options}, sort_keys=True)
    file = folder / f"graphkd-{hashlib.sha256(which.encode()).hexdigest()[:12]}.safetensors"
    found = _load(file, source)
    if found is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(folder, f".{file.stem}.lock"))
        except OSError as error:
            return _uncached(decode(), folder, error)
        found = _load(file, source)
        if found is not None:
            return found
        known = source()  # before decoding: what changes meanwhile is decoded again the next time
        decoded = decode()
        try:
            _save(file, decoded, known)
        except (OSError, SafetensorError) as error:
            return _uncached(decoded, folder, error)
        return decoded


def cache_folder(cache: bool | str, beside: Path) -> Path | None:
    """Return where an option `cache` puts caches: true for beside the data, false for nowhere, or a folder."""
    if isinstance(cache, str):
        return Path(os.path.expanduser(cache))
    return beside if cache else None


def keep_hashes(contents: Iterable[Contents], notes: tuple[str, ...]) -> tuple[str, ...]:
    """Write hashes of files that are known to be sound to their caches; return the notes with what failed."""
    for part in contents:
        try:
            part.keep()
        except OSError as error:
            told = any(note.startswith(f"{_NOT_CACHED} {part.cache} (") for note in notes)
            return notes if told else (*notes, _uncached_note(part.cache, error))
    return notes


@contextlib.contextmanager
def alone(folder: Path, lock: str) -> Iterator[None]:
    """Let one process at a time work in a folder, which is made for it; unless it writes there, nothing stays."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / lock):
            try:
                yield
            finally:  # before it is free: who waits for a lock that is gone makes another
                with contextlib.suppress(OSError):
                    (folder / lock).unlink()
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _load(file: Path, source: Callable[[], Any]) -> Decoded | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            facts = json.loads(stored.metadata()["graphkd"])
            if facts["source"] != source():
                return None
            splits = {
                name: Split(*(stored.get_tensor(f"{name}.{field}") for field in Split._fields))
                for name in facts["splits"]
            }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return Decoded(splits, tuple(facts["class_names"]), facts["skipped"], tuple(facts["notes"]))


def _save(file: Path, decoded: Decoded, source: Any) -> None:
    facts = {
        "source": source,
        "splits": list(decoded.splits),
        "class_names": decoded.class_names,
        "skipped": decoded.skipped,
        "notes": decoded.notes,
    }
    tensors = {
        f"{name}.{field}": getattr(split, field).contiguous()
        for name, split in decoded.splits.items()
        for field in Split._fields
    }
    part = file.with_suffix(".part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata={"graphkd": json.dumps(facts)})
        part.chmod(mode)  # safetensors makes files for their owner only, but data are shared
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _uncached(decoded: Decoded, folder: Path, error: BaseException) -> Decoded:
    return replace(decoded, notes=(*decoded.notes, _uncached_note(folder, error)))


def _uncached_note(folder: Path | None, error: BaseException) -> str:
    return f"{_NOT_CACHED} {folder} ({one_line(error)}); data.cache=FOLDER chooses another"
