"""What is built and installed (wheel, sdist, wheel from the sdist, editable), and what an import loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from graphkd.errors import UserError
from graphkd.graph import load_dgl

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("graphkd", "graphkd_cli", "configs", "tests")
FILES = ("pyproject.toml", "README.md", "LICENSE", "Makefile", ".gitignore")
PLACES = """
import graphkd
from graphkd_cli.config_files import config_folder
from graphkd_cli import compose
print(graphkd.__file__, compose.__file__, config_folder(), sep="\\n")
"""


def call(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, without what the caller's environment says of Python and DGL."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DGLBACKEND")}
    environment = {**inherited, "COLUMNS": "200", **variables}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def succeed(*command: object, cwd: Path, **variables: str) -> str:
    """Runs a command that must end with 0; returns what it printed."""
    done = call(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *options: str) -> Path:
    """Builds without a network; returns the folder that holds what was built."""
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a fresh virtual environment with this one's dependencies behind its own packages; returns its Python.

    They are added as folders, so the .pth file of an editable install among them is not obeyed.
    """
    blank = tmp_path_factory.mktemp("blank") / "venv"
    succeed(sys.executable, "-m", "venv", blank, cwd=blank.parent)
    python = blank / "bin" / "python"
    own = succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=blank).strip()
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(own) / "dependencies.pth").write_text("\n".join(shared) + "\n")

    def make(root: Path) -> Path:
        return Path(shutil.copytree(blank, root / "venv", symlinks=True)) / "bin" / "python"

    return make


def install(python: Path, *what: object) -> None:
    """Installs into an environment without a network, although a graphkd is seen in the folders behind it."""
    options = ("-q", "--no-deps", "--no-index", "--no-build-isolation", "--force-reinstall")
    succeed(python, "-m", "pip", "install", *options, *what, cwd=python.parent)


def files_in(folder: Path) -> set[str]:
    """The files of a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that nothing is built in the repository."""
    root = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(REPOSITORY / name, root / name)
    return root


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source tree."""
    return next(build(source, tmp_path_factory.mktemp("wheel"), "--wheel").glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist; the wheel built from it lies beside it."""
    return next(build(source, tmp_path_factory.mktemp("sdist")).glob("*.tar.gz"))


@pytest.fixture(scope="module")
def installed(wheel: Path, environment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel."""
    python = environment(tmp_path_factory.mktemp("installed"))
    install(python, wheel)
    return python


def test_wheel_holds_the_packages_and_the_configs(source: Path, wheel: Path) -> None:
    homes = {"graphkd": "graphkd", "graphkd_cli": "graphkd_cli", "configs": "graphkd_cli/configs"}
    expected = {f"{home}/{path}" for folder, home in homes.items() for path in files_in(source / folder)}
    assert {"graphkd/py.typed", "graphkd_cli/py.typed", "graphkd_cli/configs/config.yaml"} <= expected
    held = {path for path in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in path}
    assert held == expected


def test_sdist_makes_the_same_wheel(sdist: Path, wheel: Path) -> None:
    first, second = zipfile.ZipFile(wheel), zipfile.ZipFile(next(sdist.parent.glob("*.whl")))
    contents = [{name: archive.read(name) for name in archive.namelist()} for archive in (first, second)]
    assert contents[0] == contents[1]


def test_sdist_holds_the_tests_and_the_makefile(source: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "README.md", "LICENSE", "pyproject.toml", "configs/config.yaml"} <= held
    assert {f"tests/{path}" for path in files_in(source / "tests")} <= held


def test_installed_wheel_lies_in_its_environment(installed: Path, tmp_path: Path) -> None:
    places = succeed(installed, "-c", PLACES, cwd=tmp_path).splitlines()
    root = installed.parents[1].resolve()
    assert all(root in Path(place).resolve().parents for place in places), places


def test_installed_command_works_anywhere(source: Path, installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "graphkd"
    assert succeed(command, "--help", cwd=tmp_path).startswith("usage: graphkd COMMAND")
    names = {path.stem for path in (source / "configs" / "gnn").iterdir()}
    assert names <= set(succeed(command, "list", "gnns", cwd=tmp_path).split())
    config = yaml.safe_load(succeed(command, "run", "--cfg", "job", "builder=knn", "gnn=gat", cwd=tmp_path))
    assert (config["builder"]["name"], config["gnn"]["name"]) == ("knn", "gat")
    assert list(tmp_path.iterdir()) == []


def test_installed_command_answers_a_mistake_in_one_line(installed: Path, tmp_path: Path) -> None:
    done = call(installed.parent / "graphkd", "rum", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "did you mean 'run'?" in done.stderr


def test_editable_install_uses_the_configs_of_its_checkout(
    source: Path, environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    python = environment(tmp_path)
    install(python, "--editable", source)
    package, _, configs = succeed(python, "-c", PLACES, cwd=tmp_path).splitlines()
    assert Path(package).resolve() == source.resolve() / "graphkd" / "__init__.py"
    assert Path(configs).resolve() == source.resolve() / "configs"
    copied = {path.name for path in (tmp_path / "venv").rglob("graphkd*") if path.is_dir()}
    assert copied == {f"graphkd-{version('graphkd')}.dist-info"}


def loaded(statement: str, names: set[str], cwd: Path) -> list[str]:
    """Which of the modules a statement loads, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({names!r} & sys.modules.keys()))"
    return succeed(sys.executable, "-c", code, cwd=cwd, PYTHONPATH=str(REPOSITORY)).splitlines()[-1].split()


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "dgl", "hydra", "omegaconf", "numpy", "pandas", "rich", "sklearn", "yaml"}
    assert loaded("from graphkd_cli.main import main; main(['--help'])", heavy, tmp_path) == []


def test_reading_reports_loads_no_torch(tmp_path: Path) -> None:
    modules = ["graphkd", "graphkd.report", "graphkd.identity", "graphkd.ablation"]
    modules += [f"graphkd.report.{path.stem}" for path in REPOSITORY.glob("graphkd/report/[a-z]*.py")]
    heavy = {"torch", "dgl", "hydra", "omegaconf", "rich", "graphkd_cli"}
    assert loaded(f"import {', '.join(modules)}", heavy, tmp_path) == []


def test_loading_dgl_prints_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from graphkd.graph import load_dgl; print(load_dgl().graph(([0, 1], [1, 0])).num_edges());"
        "assert 'dgl.graphbolt' not in sys.modules"
    )
    done = call(sys.executable, "-c", code, cwd=tmp_path, HOME=str(tmp_path), PYTHONPATH=str(REPOSITORY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    assert list(tmp_path.iterdir()) == []


def test_names_and_options_load_no_packages_of_data_or_models(tmp_path: Path) -> None:
    statement = """
import graphkd.data.digits
from graphkd import MODELS, wrap
MODELS.names(), MODELS.options('torchvision/resnet18')
"""
    assert loaded(statement, {"sklearn", "torchvision", "timm", "torch._dynamo"}, tmp_path) == []


def test_dgl_that_cannot_work_is_named_with_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "dgl" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise FileNotFoundError('there is no libdgl\\nsecond line')\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        load_dgl.__wrapped__()
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"DGL {version('dgl')}", f"torch {version('torch')}", "there is no libdgl", "dgl >= 2.1"):
        assert part in message
