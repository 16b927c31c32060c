"""What the README and the pages of docs/ show works as they say."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import yaml
from PIL import Image
from samples import nodes

from graphkd import BUILDERS, DATASETS, GNNS, OBJECTIVES
from graphkd_cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
}
README = PAGES["README.md"]
REFERENCE = ROOT / "results" / "reference"
LARGEST_README = 12_000


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def commands(languages: tuple[str, ...] = ("bash",)) -> list[str]:
    """All lines of such blocks that call graphkd, once."""
    lines = [
        line.partition("  #")[0].strip()
        for page in PAGES
        for language in languages
        for block in blocks(page, language)
        for line in block.splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line.startswith("graphkd ")))


def of(command: str, *languages: str) -> list[str]:
    """The lines that call a command of graphkd, without placeholders."""
    found = [line for line in commands(languages or ("bash",)) if line.split()[1] == command]
    return [line for line in found if "..." not in line and not re.search(r"\b[A-Z]{4,}\b", line)]


def write_named_blocks(page: str, folder: Path) -> None:
    """Writes every block that begins with a path in a comment to that path."""
    for block in blocks(page, "python") + blocks(page, "yaml"):
        named = re.match(r"# (\S+\.(?:py|yaml))", block)
        if named:
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)


def as_plugin(page: str, folder: Path) -> None:
    """Writes the named blocks; what belongs into the package becomes the module `mutual_knn` of a plug-in."""
    write_named_blocks(page, folder)
    (folder / "mutual_knn.py").write_text((folder / "graphkd/builder/mutual_knn.py").read_text())
    (folder / "graphkd/builder/mutual_knn.py").unlink()
    (folder / "graphkd").rename(folder / "unused")  # so that it does not stand in for the real package


def graphkd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The installed command, not `python -m`, which would put the current folder on the path by itself.
    command = [str(Path(sys.executable).with_name("graphkd")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_readme_is_short() -> None:
    assert len(README.encode()) < LARGEST_README


@pytest.mark.parametrize("command", of("run"))
def test_every_run_that_is_shown_composes_and_binds(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word for word in shlex.split(command)[1:] if word != "-m"]
    if "-m" in command.split():
        arguments = [re.sub(r"=([^,]+),.*", r"=\1", word) for word in arguments]
    assert main([*arguments, "--cfg", "job"]) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in of("ablation", "bash", "text") if "launcher" not in line])
def test_every_suite_that_is_shown_can_be_planned(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--seeds", "0", "--variants", "student,hkd_kd", "data=digits"]  # other data would be downloaded
    arguments = [word for word in shlex.split(command)[1:] if word != "--dry-run"]
    assert main([*arguments, *few, "--dry-run"]) == 0, capsys.readouterr().err


def test_the_table_of_commands_is_complete() -> None:
    rows = re.findall(r"^\| `graphkd (\w+)", PAGES["docs/running.md"], flags=re.MULTILINE)
    assert set(rows) == set(COMMANDS)


def links() -> Iterator[tuple[str, str]]:
    """Pages with the links to files that they have."""
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not link.startswith(("http", "#")):
                yield page, link


def test_links_lead_to_files_and_headings() -> None:
    for page, link in links():
        file, _, heading = link.partition("#")
        if file.startswith("api/"):
            continue  # written by docs/conf.py, whose build checks these links
        path = (ROOT / page).parent / file
        assert path.is_file(), f"{page}: {link}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_the_readme_and_the_index_lead_to_every_page() -> None:
    names = {path.stem for path in DOCS.glob("*.md")} - {"index"} | {path.stem for path in DOCS.glob("*.ipynb")}
    listed = " ".join(re.findall(r"```\{toctree\}\n(.*?)```", PAGES["docs/index.md"], flags=re.DOTALL)).split()
    assert names <= set(listed)
    linked = {Path(link).stem for page, link in links() if page == "README.md"}
    assert names - linked <= {"contributing", "changelog"}


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by their headings."""
    heading, _, *rows = (
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().splitlines()
    )
    return [dict(zip(heading, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        table
        for text in PAGES.values()
        for table in re.findall(r"<!-- reference (\S+) -->\n(.*?)<!-- /reference -->", text, flags=re.DOTALL)
    ],
)
def test_tables_are_the_reference_results(file: str, shown: str) -> None:
    assert shown.count("\n| ") >= 3
    assert shown.strip() in (REFERENCE / file).read_text()


def test_the_table_of_the_readme_is_part_of_the_reference_results() -> None:
    found = re.search(r"<!-- part of (\S+) -->\n(.*?)<!-- /part -->", README, flags=re.DOTALL)
    assert found is not None
    tables = re.findall(r"^\| .*?(?=^$|\Z)", (REFERENCE / found[1]).read_text(), flags=re.DOTALL | re.MULTILINE)
    rows = [row for table in tables for row in cells(table)]
    for shown in cells(found[2]):
        assert any(shown.items() <= row.items() for row in rows), shown


def test_the_speed_table_is_the_reference_measurement() -> None:
    shown = re.search(r"<!-- bench -->\n(.*?)<!-- /bench -->", PAGES["docs/speed.md"], flags=re.DOTALL)
    reference = (REFERENCE / "bench" / "bench.md").read_text().splitlines()
    assert shown is not None
    lines = [line for line in shown[1].splitlines() if line]
    assert len(lines) > 10
    assert set(lines) <= set(reference)


def test_the_plan_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = r"<!-- plan -->\n(.*)<!-- /plan -->\n\nMade by `graphkd (plan [^`]+)`"
    shown = re.search(pattern, PAGES["docs/speed.md"], flags=re.DOTALL)
    assert shown is not None
    assert main(shlex.split(shown[2])) == 0
    assert capsys.readouterr().out == shown[1]


def test_every_part_has_its_source_and_weight() -> None:
    text = PAGES["docs/methods.md"]
    rows = {
        names[0]: row for row in re.findall(r"^\| .*$", text, re.MULTILINE) if (names := re.findall(r"`(\w+)`", row))
    }
    assert {*OBJECTIVES.names(), *BUILDERS.names(), *GNNS.names()} <= set(rows)
    pairs = [path.stem for path in (ROOT / "configs" / "pair").glob("*.yaml")]
    assert all(f"`{name}`" in text for name in [*DATASETS.names(), *pairs])
    for name in OBJECTIVES.names():
        weight: Any = yaml.safe_load((ROOT / "configs" / "term" / f"{name}.yaml").read_text())["weight"]
        parts = weight if isinstance(weight, dict) else {"": weight}
        shown = ", ".join(f"{part} {value:g}".strip() for part, value in parts.items())
        assert rows[name].split("|")[-2].strip() == shown, name
    assert set(re.findall(r"`(\w+)`", README)) >= {*OBJECTIVES.names(), *BUILDERS.names(), *GNNS.names()}


def test_the_picture_is_what_its_program_draws(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "draw_idea.py"))["draw"](tmp_path / "idea.svg")
    assert (tmp_path / "idea.svg").read_text().count("<path") == (DOCS / "idea.svg").read_text().count("<path")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_examples_run(page: str, tmp_path: Path, tiny_words: list[str]) -> None:
    example = "\n".join(block for block in blocks(page, "python") if not block.startswith("# "))
    for shown, shorter in {
        r"epochs=\d": "epochs=1",
        r'build\("digits"\)': 'build("digits", train_fraction=0.2)',
        "VARIANT/IDENTITY/seed-0": "one",
    }.items():
        example = re.sub(shown, shorter, example)
    if "graphkd.load" in example:
        done = forked.graphkd(["run", "objective=ce", "run_dir=results/adhoc/one", *tiny_words], tmp_path)
        assert done.returncode == 0, done.stderr
    done = forked.run(forked.source, [example], tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.splitlines()[0]) <= 100
    assert page == "README.md" or done.stdout.splitlines()[1] == "torch.Size([4, 8])"


def test_the_readme_and_the_pages_add_the_same_builder() -> None:
    for language in ("python", "yaml"):
        shown = [block for block in blocks("README.md", language) if block.startswith("# ")]
        assert shown
        assert set(shown) <= set(blocks("docs/adding_parts.md", language))


@pytest.mark.slow
def test_an_added_builder_is_found(tmp_path: Path, tiny_words: list[str]) -> None:
    as_plugin("docs/adding_parts.md", tmp_path)
    done = graphkd(
        tmp_path, "run", "--config-dir", "configs", "plugins=[mutual_knn]", "builder=mutual_knn", *tiny_words
    )
    assert done.returncode == 0, done.stderr
    assert "mutual_knn" in done.stdout


@pytest.mark.slow
def test_an_added_objective_and_an_added_encoder_train(tmp_path: Path, tiny_words: list[str]) -> None:
    as_plugin("docs/adding_parts.md", tmp_path)
    shown = [*of("run", "text"), *re.findall(r"`(graphkd run [^`]+gnn=sgc)`", PAGES["docs/adding_parts.md"])]
    shown = [line for line in shown if "my_methods" in line or "my_encoders" in line]
    assert len(shown) == 2
    for line in shown:
        done = forked.graphkd([*shlex.split(line)[1:], *tiny_words], tmp_path)
        assert done.returncode == 0, done.stderr


def test_both_engines_of_the_added_encoder_agree(plugin: Any) -> None:
    source = next(block for block in blocks("docs/adding_parts.md", "python") if "class SGC" in block)
    plugin("my_encoders", source)
    __import__("my_encoders")
    batch = nodes(20, 0)
    assert batch.embedding is not None
    width = batch.embedding.shape[1]
    graph = BUILDERS.build("knn", k=4).build(batch)
    torch.manual_seed(0)
    dense = GNNS.build("sgc", in_dim=width, out_dim=6, engine="dense")
    sparse = GNNS.build("sgc", in_dim=width, out_dim=6, engine="dgl")
    sparse.load_state_dict(dense.state_dict())
    torch.testing.assert_close(dense(graph, batch.embedding), sparse(graph, batch.embedding))


@pytest.mark.slow
def test_a_suite_and_a_layout_of_ones_own_work(tmp_path: Path, tiny_words: list[str]) -> None:
    for page in ("docs/running.md", "docs/reports.md"):
        write_named_blocks(page, tmp_path)
    own = ["--config-dir", "my_configs"]
    done = forked.graphkd(["ablation", "tau", *own, "--seeds", "0", "--variants", "knn,tau_07", *tiny_words], tmp_path)
    assert done.returncode == 0, done.stderr
    done = forked.graphkd(["report", "results/", *own, "--table", "accuracy"], tmp_path)
    assert done.returncode == 0, done.stderr
    for options in (["--table", "short"], ["--baseline", "knn"], ["--study", "tau", "--out", "tables"], ["--profile"]):
        assert forked.graphkd(["report", "results/", *options], tmp_path).returncode == 0
    done = forked.run(forked.source, blocks("docs/reports.md", "python"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tau knn ")


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_student(tmp_path: Path) -> None:
    block = next(block for block in blocks("docs/own_data.md", "text") if "data=folder" in block)
    install, run, report = block.splitlines()
    assert install == "python -m pip install ."
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
    write_named_blocks("docs/own_data.md", tmp_path)
    shown = re.search(r"# my_parts\.py +graphkd (.*)", PAGES["docs/own_data.md"])
    assert shown is not None
    done = forked.graphkd([*shlex.split(shown[1]), "trainer.epochs=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resnet8x4->tiny" in done.stdout


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(DOCS / "own_images.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    kept = [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells] == kept
    assert "student distilled: " in str(notebook.cells)


def test_the_notebook_keeps_its_pictures_and_no_paths() -> None:
    text = (DOCS / "own_images.ipynb").read_text()
    assert text.count('"image/png"') == 4
    assert "/tmp" not in text
    assert "stderr" not in text


@pytest.mark.slow
def test_the_pages_build_without_warnings(tmp_path: Path) -> None:
    options = ["--fail-on-warning", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "built" / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    objectives = (tmp_path / "built" / "html" / "api" / "objective.html").read_text()
    assert "graphkd.objective.hkd.HKD" in objectives
    assert not re.search(r"<(script|link)[^>]*https?://", objectives), "a page must not load anything from elsewhere"
