from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import Command, students, top


@pytest.fixture
def run_folder(command: Command, folder: Path, tiny_words: list[str]) -> str:
    assert command("run", *tiny_words, "objective=ce").code == 0
    (place,) = students(folder)
    return str(place.relative_to(folder))


def test_a_run_becomes_files(command: Command, folder: Path, run_folder: str) -> None:
    answer = command("export", run_folder, "--out", "out/s.ts", "--with-preprocessing")
    assert (answer.code, answer.err) == (0, "")
    checked, wrote = answer.out.splitlines()
    assert checked.startswith("checked on 359 images: 359 predictions are the same, logits differ by at most")
    assert wrote == "wrote out/s.ts"
    answer = command("export", "--safetensors", "--out", "hub", run_folder, "--state-dict")
    assert answer.out.splitlines()[1:] == [
        f"wrote hub/{name}" for name in ("model.safetensors", "model.pth", "config.json", "README.md")
    ]
    assert top(folder / "hub") == {"model.safetensors", "model.pth", "config.json", "README.md"}
    assert torch.load("hub/model.pth", weights_only=True).keys()


def test_what_is_wrong_is_one_line_and_nothing_is_left(command: Command, folder: Path, run_folder: str) -> None:
    (folder / "old.ts").write_text("mine")
    (folder / "unfinished").mkdir()
    record = (Path(run_folder) / "record.json").read_text().replace('"status": "done"', '"status": "running"')
    (folder / "unfinished" / "record.json").write_text(record)
    before = top(folder)
    for words, message in (
        ([], "export: which run?"),
        ([run_folder], "export: where to? --out FILE"),
        (["nowhere", "--out", "s.ts"], "nowhere holds no run"),
        (["unfinished", "--out", "s.ts"], "the run in unfinished is not finished: it is running"),
        ([run_folder, "--out", "s.xyz"], "the ending '.xyz' is unknown"),
        ([run_folder, "--out", "old.ts"], "old.ts exists already; --force overwrites it"),
        ([run_folder, "--out", "old.ts/s.ts"], "the folder old.ts cannot be made"),
        ([run_folder, "--tensorflow", "--out", "s"], "export: unrecognized arguments: --tensorflow"),
        ([run_folder, "--out", "s.pth", "--with-preprocessing"], "state-dict hold weights alone"),
    ):
        answer = command("export", *words)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), words
        assert message in answer.err
        assert top(folder) == before
    assert (folder / "old.ts").read_text() == "mine"
