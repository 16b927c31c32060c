"""What the record of a run says before its training."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from graphkd.run import parse
from graphkd.run.records import new_record
from graphkd_cli.compose import compose


def content(*words: str) -> str | None:
    return new_record(parse(compose(words).config), ["weak"]).content


def test_data_in_files_are_told_by_what_these_hold(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / "0.png")
    pets, moved = (f"data.root={tmp_path / name}" for name in ("pets", "moved"))
    first = content("data=folder", pets)
    assert first is not None
    shutil.copytree(tmp_path / "pets", tmp_path / "moved")
    assert content("data=folder", moved) == first
    Image.new("RGB", (8, 8), "red").save(tmp_path / "moved" / "test" / "dog" / "0.png")
    assert content("data=folder", moved) != first
    assert content("data=digits") is None
