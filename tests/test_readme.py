"""What the README shows works as it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from PIL import Image

from graphkd_cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("graphkd ")]


def write_named_blocks(folder: Path) -> None:
    """Writes every block that begins with a path in a comment to that path."""
    for block in blocks("python") + blocks("yaml"):
        named = re.match(r"# (\S+\.(?:py|yaml))", block)
        if named:
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)


def graphkd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The installed command, not `python -m`, which would put the current folder on the path by itself.
    command = [str(Path(sys.executable).with_name("graphkd")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("graphkd run ")])
def test_every_run_that_is_shown_composes_and_binds(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word for word in shlex.split(command)[1:] if word != "-m"]
    if "-m" in command.split():
        arguments = [re.sub(r"=([^,]+),.*", r"=\1", word) for word in arguments]
    assert main([*arguments, "--cfg", "job"]) == 0, capsys.readouterr().err


def test_the_table_of_commands_is_complete() -> None:
    assert set(re.findall(r"^\| `graphkd (\w+)", README, flags=re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize(
    ("file", "shown"), re.findall(r"<!-- reference (\S+) -->\n(.*?)<!-- /reference -->", README, flags=re.DOTALL)
)
def test_tables_are_the_reference_results(file: str, shown: str) -> None:
    assert shown.count("\n| ") >= 3
    assert shown.strip() in (ROOT / "results" / "reference" / file).read_text()


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_speed_table_is_the_reference_measurement() -> None:
    shown = re.search(r"<!-- bench -->\n(.*?)<!-- /bench -->", README, flags=re.DOTALL)
    reference = (ROOT / "results" / "reference" / "bench" / "bench.md").read_text().splitlines()
    assert shown is not None
    lines = [line for line in shown[1].splitlines() if line]
    assert len(lines) > 10
    assert set(lines) <= set(reference)


def test_the_plan_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"<!-- plan -->\n(.*)<!-- /plan -->\n\nMade by `graphkd (plan [^`]+)`", README, flags=re.DOTALL)
    assert shown is not None
    assert main(shlex.split(shown[2])) == 0
    assert capsys.readouterr().out == shown[1]


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    example = next(block for block in blocks("python") if "graphkd.distill(" in block)
    for shown, shorter in {"epochs=2": "epochs=1", 'build("digits")': 'build("digits", train_fraction=0.2)'}.items():
        assert shown in example
        example = example.replace(shown, shorter)
    done = forked.run(forked.source, [example], tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) <= 100


@pytest.mark.slow
def test_an_added_builder_is_found(tmp_path: Path, tiny_words: list[str]) -> None:
    write_named_blocks(tmp_path)
    (tmp_path / "mutual_knn.py").write_text((tmp_path / "graphkd/builder/mutual_knn.py").read_text())
    (tmp_path / "graphkd/builder/mutual_knn.py").unlink()
    (tmp_path / "graphkd").rename(tmp_path / "unused")  # so that it does not stand in for the real package
    done = graphkd(
        tmp_path, "run", "--config-dir", "configs", "plugins=[mutual_knn]", "builder=mutual_knn", *tiny_words
    )
    assert done.returncode == 0, done.stderr
    assert "mutual_knn" in done.stdout


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_student(tmp_path: Path) -> None:
    block = next(block for block in blocks("text") if "data=folder" in block)
    install, run, report = block.splitlines()
    assert install == "pip install ."
    for number in range(12):
        path = tmp_path / "photos" / ("test" if number % 3 == 2 else "train") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 36), (20 * number, 9, 9)).save(path)
    done = forked.graphkd([*shlex.split(run)[1:], "trainer.epochs=1", "teacher_trainer.epochs=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / re.search(r"folder: (\S+)", done.stdout)[1] / "student.safetensors").is_file()  # type: ignore[index]
    done = forked.graphkd(shlex.split(report)[1:], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resnet32x4->resnet8x4 on folder" in done.stdout


@pytest.mark.slow
def test_own_data_and_network_train(tmp_path: Path) -> None:
    write_named_blocks(tmp_path)
    (tmp_path / "graphkd").rename(tmp_path / "unused")
    shown = re.search(r"# my_parts\.py +graphkd (.*)", README)
    assert shown is not None
    done = forked.graphkd([*shlex.split(shown[1]), "trainer.epochs=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resnet8x4->tiny" in done.stdout
