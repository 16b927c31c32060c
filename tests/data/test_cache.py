"""The cache of decoded images: what it gives back, what it is validated by, and that one process fills it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from graphkd.data import Split
from graphkd.data.cache import cached, keep_hashes
from graphkd.data.content import Contents
from graphkd.data.decoded import Decoded


def samples(value: int = 1) -> Decoded:
    image = torch.full((2, 3, 4, 4), value, dtype=torch.uint8)
    return Decoded({"train": Split(image, torch.tensor([0, 1]))}, ("a", "b"), skipped=3, notes=("one", "two"))


def equal(first: Decoded, second: Decoded) -> bool:
    tensors = [[tensor for split in some.splits.values() for tensor in split] for some in (first, second)]
    return (
        first.splits.keys() == second.splits.keys()
        and all(torch.equal(one, other) for one, other in zip(*tensors, strict=True))
        and (first.class_names, first.skipped, first.notes) == (second.class_names, second.skipped, second.notes)
    )


class Decodes:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return samples(self.calls)


def test_gives_back_what_was_decoded(tmp_path: Path) -> None:
    decode = Decodes()
    first = cached(tmp_path / "deep", {"size": 4}, lambda: "source", decode)
    second = cached(tmp_path / "deep", {"size": 4}, lambda: "source", decode)
    assert decode.calls == 1
    assert equal(first, samples(1))
    assert equal(second, samples(1))
    file = next((tmp_path / "deep").glob("*.safetensors"))
    with safe_open(file, framework="pt") as stored:
        assert list(stored.metadata()) == ["graphkd"]
        assert json.loads(stored.metadata()["graphkd"])["source"] == "source"
    assert file.stat().st_mode & 0o044 == (tmp_path / "deep").stat().st_mode & 0o044


def test_other_options_have_a_file_of_their_own_and_another_source_replaces_it(tmp_path: Path) -> None:
    decode = Decodes()
    for options, source in (({"a": 1}, "x"), ({"a": 2}, "x"), ({"a": 1}, "x"), ({"a": 1}, "y"), ({"a": 1}, "y")):
        cached(tmp_path, options, lambda source=source: source, decode)
    assert decode.calls == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    cached(None, {"a": 1}, lambda: "y", decode)
    assert decode.calls == 4


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_broken_cache_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    decode = Decodes()
    cached(tmp_path, {}, lambda: 1, decode)
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5] if content is None else content)
    assert equal(cached(tmp_path, {}, lambda: 1, decode), samples(2))
    assert equal(cached(tmp_path, {}, lambda: 1, decode), samples(2))


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Decoded:
        raise KeyboardInterrupt

    for folder in (tmp_path, tmp_path / "deep" / "er"):
        with pytest.raises(KeyboardInterrupt):
            cached(folder, {}, lambda: 1, fail)
        assert list(tmp_path.iterdir()) == []
    assert equal(cached(tmp_path, {}, lambda: 1, samples), samples())
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_one_decodes_and_the_others_wait(tmp_path: Path) -> None:
    decode = Decodes()
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(cached(tmp_path, {}, lambda: 1, decode))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decode.calls == 1
    assert all(equal(result, samples(1)) for result in results)


def test_what_changes_while_it_is_decoded_is_decoded_again(tmp_path: Path) -> None:
    source, decode = ["before"], Decodes()

    def decoding() -> Decoded:
        source[0] = "after"
        return decode()

    for _ in range(3):
        cached(tmp_path, {}, lambda: source[0], decoding)
    assert decode.calls == 2


def test_hashes_that_cannot_be_kept_cost_one_note(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x")
    (tmp_path / "file").touch()
    contents = [Contents([str(tmp_path / "data")], tmp_path, tmp_path / "file" / "below", name) for name in "ab"]
    notes = keep_hashes(contents, ("other",))
    assert len(notes) == 2
    assert "not cached in" in notes[1]
    assert keep_hashes(contents, notes) == notes
    assert keep_hashes([Contents([str(tmp_path / "data")], tmp_path, None)], ()) == ()
