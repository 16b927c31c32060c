"""What the record of a run says before its training."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graphkd.data import DATASETS
from graphkd.engine.weights import content_hash
from graphkd.identity import cached_fingerprints
from graphkd.report.record import Code
from graphkd.run import parse, part
from graphkd.run.checkout import uncommitted
from graphkd.run.part import source_hash
from graphkd.run.records import new_record
from graphkd.run.reuse import changed_plugins
from graphkd_cli import ablation
from graphkd_cli.compose import compose


def content(*words: str) -> str | None:
    return new_record(parse(compose(words).config), ["weak"]).content


def test_files_that_a_checkout_has_not_committed_are_told(tmp_path: Path) -> None:
    package = tmp_path / "graphkd"
    package.mkdir()
    for name in ("kept", "changed"):
        (package / f"{name}.py").touch()

    def run(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    run("init")
    run("add", ".")
    run("-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "all")
    uncommitted.cache_clear()
    assert uncommitted(tmp_path) == frozenset()
    (package / "changed.py").write_text("x = 1")
    (package / "new part.py").touch()
    (tmp_path / "notes.md").touch()
    uncommitted.cache_clear()
    assert uncommitted(tmp_path) == {package / "changed.py", package / "new part.py"}
    assert uncommitted(None) == frozenset()


def test_a_part_that_is_not_committed_counts_like_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(compose(["objective=kd"]).config)
    file = Path(inspect.getfile(DATASETS.factory("digits"))).resolve()
    monkeypatch.setattr(part, "uncommitted", lambda root: {file})
    assert spec.plugins == {"graphkd.data.digits": content_hash(file)}
    monkeypatch.setattr(part, "uncommitted", lambda root: set())
    assert spec.plugins == {}


def test_parts_of_graphkd_that_have_changed_since_are_told() -> None:
    module = "graphkd.data.digits"
    made = new_record(parse(compose(["objective=kd"]).config), ["weak"])
    source = str(source_hash(module))

    def changed(code: Code, now: dict[str, str]) -> bool:
        return changed_plugins(dataclasses.replace(made, code=code), now) == (module,)

    clean, old, same = (Code("0.2.0", "abc", False, then) for then in ({}, {module: "0"}, {module: source}))
    assert changed(clean, {module: source}), "committed then, edited since"
    assert changed(old, {}), "edited, and committed"
    assert not changed(same, {}), "committed as it was"
    assert not changed(same, {module: source})
    assert not changed(Code("0.2.0"), {module: source}), "an installed copy then: nothing is known"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of data sets at whose files somebody looked."""
    found: list[Any] = []

    def fingerprint(options: Any) -> dict[str, Any]:
        found.append(options)
        return {"files": "those"}

    monkeypatch.setattr(DATASETS.factory("digits"), "fingerprint", fingerprint)
    return found


def test_a_look_holds_within_its_context(looks: list[Any]) -> None:
    def identities() -> set[str]:
        return {parse(compose([f"objective={name}"]).config).identity for name in ("kd", "hkd")}

    with cached_fingerprints():
        first = identities()
        with cached_fingerprints():
            assert identities() == first
    assert len(looks) == 2  # at the teacher's data and at the student's, of which there are fewer
    assert identities() == first
    assert len(looks) > 4


def test_planning_a_suite_looks_once(looks: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["digits", "--dry-run", "--variants", "kd,hkd", "--seeds", "0,1"]) == 0
    assert "= 4 runs" in capsys.readouterr().out
    assert len(looks) == 2


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
