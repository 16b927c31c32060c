"""Downloads from a server on this machine: checked, resumed, once for all processes, and told in one line."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest

from graphkd.data.download import Archive, download_progress, fetch, read_tar
from graphkd.errors import UserError

CONTENT = bytes(range(256)) * 12_000  # about 3 MB


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_fetches_once_and_reports_progress(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.tar.gz", CONTENT)
    reports: list[tuple[str, int, int | None]] = []
    with download_progress(lambda *report: reports.append(report)):
        path = fetch(archive, tmp_path / "deep" / "data")
    assert path == tmp_path / "deep" / "data" / "some.tar.gz"
    assert path.read_bytes() == CONTENT
    assert [report[0] for report in reports] == ["some.tar.gz"] * len(reports)
    done = [report[1] for report in reports]
    assert len(done) >= 3
    assert done == sorted(done)
    assert reports[-1][1:] == (len(CONTENT), len(CONTENT))
    assert fetch(archive, path.parent) == path
    assert server.ranges == [None]
    assert left_over(path.parent) == ["some.tar.gz"]


def test_goes_on_where_an_earlier_process_stopped(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    (tmp_path / "some.zip.part").write_bytes(CONTENT[:1000])
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]
    assert left_over(tmp_path) == ["some.zip"]


def test_goes_on_where_the_connection_broke(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    server.breaks_after = [2_000_000, 500]
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=2000000-", "bytes=2000500-"]


def test_keeps_what_it_has_when_connections_keep_breaking(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    server.breaks_after = [100] * 4
    with pytest.raises(UserError, match=r"broke after 400 of 3072000 bytes.*try again to go on"):
        fetch(archive, tmp_path)
    assert (tmp_path / "some.zip.part").read_bytes() == CONTENT[:400]
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[:1000], CONTENT])
def test_starts_over_where_the_server_cannot_resume(server: Any, tmp_path: Path, part: bytes) -> None:
    archive = server.add("some.zip", CONTENT)
    server.knows_ranges = False
    (tmp_path / "some.zip.part").write_bytes(part)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b"other" * 100])
def test_a_part_that_is_whole_or_of_another_file(server: Any, tmp_path: Path, part: bytes) -> None:
    archive = server.add("some.zip", CONTENT)
    (tmp_path / "some.zip.part").write_bytes(part)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert left_over(tmp_path) == ["some.zip"]


def test_a_wrong_checksum_leaves_nothing_behind(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    server.files["some.zip"] = b"an error page"
    with pytest.raises(UserError, match=f"{archive.url} gave a file of MD5 sum .*, not {archive.md5}"):
        fetch(archive, tmp_path)
    assert left_over(tmp_path) == []


def test_a_wrong_file_put_by_hand_is_named_and_kept(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    (tmp_path / "some.zip").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"some.zip has MD5 sum .*remove it to download it again"):
        fetch(archive, tmp_path)
    assert (tmp_path / "some.zip").read_bytes() == b"something else"
    assert server.ranges == []


def test_an_archive_that_is_there_takes_no_lock(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = server.add("some.zip", CONTENT)
    (tmp_path / "some.zip").write_bytes(CONTENT)

    def alone(*_: Any) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr("graphkd.data.download.alone", alone)
    assert fetch(archive, tmp_path) == tmp_path / "some.zip"


def test_without_a_network_names_address_and_place(tmp_path: Path) -> None:
    archive = Archive("http://127.0.0.1:1/some.zip", "0" * 32, "some.zip")
    with pytest.raises(UserError) as caught:
        fetch(archive, tmp_path / "new" / "data")
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot download http://127.0.0.1:1/some.zip (ConnectionRefusedError" in message
    assert f"put the file at {tmp_path / 'new' / 'data' / 'some.zip'} by hand" in message
    assert list(tmp_path.iterdir()) == [], "no folder stays"


def test_a_missing_page_and_a_folder_that_cannot_be(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot download"):
        fetch(archive, tmp_path / "file" / "data")
    server.files.clear()
    with pytest.raises(UserError, match=r"cannot download .*404"):
        fetch(archive, tmp_path)


def test_two_at_once_download_once(server: Any, tmp_path: Path) -> None:
    archive = server.add("some.zip", CONTENT)
    other = forked.start(fetch, [archive, tmp_path], tmp_path, Path(os.devnull), Path(os.devnull))
    threads = [threading.Thread(target=fetch, args=(archive, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert forked.wait(other) == 0
    assert server.ranges == [None]
    assert (tmp_path / "some.zip").read_bytes() == CONTENT


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_reads_members_and_unpacks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make_tar(folder / "a.tar.gz", {"../evil": b"x", "/tmp/evil": b"y", "a/b": b"one", "a/c": b"two"})
    assert read_tar(archive, ["a/c", "a/b"]) == {"a/b": b"one", "a/c": b"two"}
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar.gz"]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(cut_short, "no readable tar"), (lambda path: path.write_bytes(b"no tar"), "no readable tar")],
)
def test_broken_archives(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"a": os.urandom(20_000), "b": os.urandom(20_000)})
    with pytest.raises(UserError, match=r"a.tar.gz lacks c, d"):
        read_tar(archive, ["a", "d", "c"])
    spoil(archive)
    with pytest.raises(UserError, match=message):
        read_tar(archive, ["a", "b"])
