"""Hashes of files: what counts as a change, and that nothing is read twice."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from graphkd.data import content
from graphkd.data.content import Contents
from graphkd.errors import UserError


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new process, and need not wait until its files are two seconds old."""
    monkeypatch.setattr(content, "_read", {})
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**9))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, in any order."""
    names: list[str] = []
    hashed = content._sha256

    def counting(file: str) -> bytes:
        names.append(Path(file).name)
        return hashed(file)

    monkeypatch.setattr(content, "_sha256", counting)
    return names


def make(folder: Path, count: int = 600) -> list[str]:
    """Files of 4 bytes, and their paths."""
    folder.mkdir()
    files = [folder / f"{index}" for index in range(count)]
    for index, file in enumerate(files):
        file.write_bytes(b"%04d" % index)
    return [str(file) for file in files]


def kept(files: Sequence[str], base: Path) -> list[bytes]:
    """The hashes, as a process finds that begins now, and leaves for the next."""
    content._read.clear()
    contents = Contents(files, base, base)
    contents.keep()
    return contents.hashes()


def test_each_file_is_read_once_by_one_process_or_the_next(tmp_path: Path, read: list[str]) -> None:
    files = make(tmp_path / "data")
    expected = [hashlib.sha256(b"%04d" % index).digest() for index in range(600)]
    assert Contents(files, tmp_path / "data", None).hashes() == expected
    assert kept(files, tmp_path / "data") == expected
    assert len(read) == 1200
    assert kept(files, tmp_path / "data") == expected
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert kept([str(moved / Path(file).name) for file in files], moved) == expected
    assert len(read) == 1200


def test_changed_files_are_read_also_with_size_and_time_kept(tmp_path: Path, read: list[str]) -> None:
    files = make(tmp_path / "data", 5)
    kept(files, tmp_path / "data")
    read.clear()
    time.sleep(0.02)  # the file system's clock ticks
    times = os.stat(files[1])
    Path(files[1]).write_bytes(b"anew")
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(files[2])
    Path(files[3]).write_bytes(b"longer")
    Path(files[4]).unlink()
    expected = [hashlib.sha256(data).digest() for data in (b"0000", b"anew", b"0002", b"longer")]
    assert kept(files[:4], tmp_path / "data") == expected
    assert sorted(read) == ["1", "2", "3"]


def test_another_file_in_its_place_is_read(tmp_path: Path, read: list[str]) -> None:
    """As `cp --preserve` and `mv` leave it: size and modification time agree, the inode does not."""
    files = make(tmp_path / "data", 2)
    kept(files, tmp_path / "data")
    times = os.stat(files[0])
    other = tmp_path / "other"
    other.write_bytes(b"anew")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(files[0])
    assert kept(files, tmp_path / "data")[0] == hashlib.sha256(b"anew").digest()
    assert read == ["0", "1", "0"] or read == ["1", "0", "0"]


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path / "data", 3)
    monkeypatch.setattr(content, "_SETTLED_NS", 10**12)
    for _ in range(2):
        kept(files, tmp_path / "data")
    assert len(read) >= 6
    read.clear()
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**9))
    for _ in range(2):
        kept(files, tmp_path / "data")
    assert len(read) == 3


@pytest.mark.parametrize("left", [b"", b"nonsense", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', }"])
def test_broken_hashes_are_made_anew(tmp_path: Path, read: list[str], left: bytes) -> None:
    files = make(tmp_path / "data", 3)
    expected = kept(files, tmp_path / "data")
    next((tmp_path / "data").glob("*.hashes.npy")).write_bytes(left)
    assert kept(files, tmp_path / "data") == expected
    assert len(read) == 6
    assert kept(files, tmp_path / "data") == expected
    assert len(read) == 6


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for name, message in (("link", "link cannot be read"), (".", "not a regular file")):
        with pytest.raises(UserError, match=message):
            Contents([str(tmp_path / name)], tmp_path, None).hashes()
