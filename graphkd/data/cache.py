"""Decoded data sets in one file, so that images are decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphkd.data.decoded import Decoded
from graphkd.data.tensor import Split
from graphkd.errors import one_line

_FORMAT = 1
_BLOCK = 2**16
_BLOCKS = 64


def cached(
    folder: Path | None,
    options: Mapping[str, Any],
    source: Callable[[], Any],
    decode: Callable[[], Decoded],
    same: Callable[[Any], bool] | None = None,
) -> Decoded:
    """What `decode` gives, from the cache in `folder` where it holds this source under these options.

    One process decodes, others that want the same wait for it. A cache that cannot be read is made again; one that
    cannot be written costs a note.

    Args:
        folder: Where caches are kept; None for nowhere.
        options: What the result depends on beside the source; chooses the file.
        source: Gives what the cache is validated by, of plain values that JSON holds.
        decode: Makes the samples.
        same: Whether a stored source is still this one, if that is quicker to tell than by comparing.
    """
    if folder is None:
        return decode()
    file = folder / f"graphkd-{_digest({'format': _FORMAT, **options})[:12]}.safetensors"
    is_same = same or (lambda stored: bool(stored == source()))
    found = _load(file, is_same)
    if found is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / f".{file.stem}.lock"))
        except OSError as error:
            return _uncached(decode(), folder, error)
        found = _load(file, is_same)
        if found is not None:
            return found
        decoded = decode()
        try:
            _save(file, decoded, source())
        except (OSError, SafetensorError) as error:
            return _uncached(decoded, folder, error)
        return decoded


def cache_folder(cache: bool | str, beside: Path) -> Path | None:
    """Where an option `cache` puts caches: true for beside the data, false for nowhere, or a folder."""
    if isinstance(cache, str):
        return Path(cache).expanduser()
    return beside if cache else None


def describe_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What tells whether files are still the same: name, size, time of change and SHA-256 of each."""
    return [{**_stat(file), "sha256": _hash(file)} for file in files]


def same_files(files: Sequence[Path], stored: Any) -> bool:
    """Whether `describe_files` would give `stored`; where size and time agree, the content is not read."""
    if not isinstance(stored, list) or len(stored) != len(files):
        return False
    for file, known in zip(files, stored, strict=True):
        now = _stat(file)
        if now["name"] != known["name"] or now["size"] != known["size"]:
            return False
        if now["mtime_ns"] != known["mtime_ns"] and _hash(file) != known["sha256"]:
            return False
    return True


def sampled_hash(file: Path) -> str:
    """SHA-256 of a file's size and of 64 blocks of 64 KiB spread over it: fast for any size."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for block in range(_BLOCKS):
            stream.seek(max(size - _BLOCK, 0) * block // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def _stat(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"name": file.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _load(file: Path, is_same: Callable[[Any], bool]) -> Decoded | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            facts = json.loads(stored.metadata()["graphkd"])
            if not is_same(facts["source"]):
                return None
            splits = {
                name: Split(stored.get_tensor(f"{name}.images"), stored.get_tensor(f"{name}.labels"))
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
    with _replacing(file) as part:
        mode = part.stat().st_mode
        save_file(dict(_tensors(decoded.splits)), part, metadata={"graphkd": json.dumps(facts)})
        part.chmod(mode)  # safetensors makes files for their owner only, but data are shared


def _tensors(splits: Mapping[str, Split]) -> Iterator[tuple[str, Tensor]]:
    for name, (images, labels) in splits.items():
        yield f"{name}.images", images.contiguous()
        yield f"{name}.labels", labels.contiguous()


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A file to write that takes the place of `file` when all went well."""
    part = file.with_suffix(".part")
    try:
        part.touch()
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _uncached(decoded: Decoded, folder: Path, error: BaseException) -> Decoded:
    note = f"the decoded images are not cached in {folder} ({one_line(error)}); data.cache=FOLDER chooses another"
    return replace(decoded, notes=(*decoded.notes, note))
