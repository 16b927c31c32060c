"""The Makefile's own logic, with a Python and a uv that only note what is asked of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"
TARGETS = ("help", "install", "ablation", "run", "report", "bench", "test", "soak", "docs", "format", "lint", "clean")
PYTHON = """\
#!/bin/sh
case "$1" in
    -c) exec {real} -IS -c "import sys; sys.version_info = {version}; $2" ;;
    --version) echo "Python of the test" ;;
    -m) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "{name} $*" >>"$LOG" ;;
esac
"""
UV = """\
#!/bin/sh
echo "uv $*" >>"$LOG"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


class Project:
    """A folder that holds the Makefile, and a PATH with the stand-ins before everything else."""

    def __init__(self, root: Path) -> None:
        """The folder is `root/project`, the stand-ins are in `root/bin`; each Python says it is 3.11."""
        self.bin, self.folder, self.log = root / "bin", root / "project", root / "log"
        self.bin.mkdir()
        self.folder.mkdir()
        for name in ("python3", "python3.10", "python3.11", "python3.12"):
            self.python(name, (3, 11))
        self.script("uv", UV)
        for name, text in (("Makefile", MAKEFILE.read_text()), ("pyproject.toml", "")):
            (self.folder / name).write_text(text)
            os.utime(self.folder / name, (1e9, 1e9))

    def script(self, name: str, text: str) -> None:
        """Puts an executable on the PATH."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def python(self, name: str, version: tuple[int, int]) -> None:
        """Puts a Python on the PATH that claims a version."""
        self.script(name, PYTHON.format(name=name, version=version, real=shlex.quote(sys.executable)))

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Calls make as a user would."""
        own = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")
        environment = {key: value for key, value in os.environ.items() if key not in own}
        environment |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "LOG": str(self.log)}
        return subprocess.run(
            ["make", *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )

    def done(self) -> list[str]:
        """What the stand-ins were asked for since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project."""
    return Project(tmp_path)


def test_help_is_the_default_and_lists_the_targets(project: Project) -> None:
    shown = project.make()
    assert shown.stdout == project.make("help").stdout
    assert [line.split()[1] for line in shown.stdout.splitlines()] == list(TARGETS)
    assert not (project.folder / ".venv").exists()


def test_install_happens_once(project: Project) -> None:
    project.make("install").check_returncode()
    assert project.done() == [
        "python3 -m venv --without-pip .venv",
        "uv pip install --quiet --compile-bytecode --python .venv/bin/python -e .[dev] pip",
    ]
    assert project.make("install").returncode == 0
    assert project.done() == []


def test_changed_dependencies_are_installed_into_the_same_environment(project: Project) -> None:
    project.make("install")
    project.done()
    later = (project.folder / ".venv" / "installed-in").stat().st_mtime + 1
    os.utime(project.folder / "pyproject.toml", (later, later))
    project.make("install").check_returncode()
    assert [line.split()[0] for line in project.done()] == ["uv"]


def test_moved_folder_gets_a_new_environment(project: Project) -> None:
    project.make("install")
    project.done()
    project.folder = project.folder.rename(project.folder.with_name("elsewhere"))
    (project.folder / ".venv" / "old").touch()
    project.make("install").check_returncode()
    assert [line.split()[0] for line in project.done()] == ["python3", "uv"]
    assert not (project.folder / ".venv" / "old").exists()


def test_install_that_failed_is_tried_again(project: Project) -> None:
    project.script("uv", "#!/bin/sh\nexit 1\n")
    assert project.make("install").returncode != 0
    project.script("uv", UV)
    project.done()
    project.make("install").check_returncode()
    assert [line.split()[0] for line in project.done()] == ["python3", "uv"]


def test_python_that_fits_is_looked_for(project: Project) -> None:
    project.python("python3", (3, 13))
    project.python("python3.11", (3, 9))
    project.make("install").check_returncode()
    assert project.done()[0].startswith("python3.12 ")


@pytest.mark.parametrize("version", [(3, 10), (3, 12)])
def test_oldest_and_newest_python_fit(project: Project, version: tuple[int, int]) -> None:
    project.python("python3", version)
    project.make("install").check_returncode()
    assert project.done()[0].startswith("python3 ")


@pytest.mark.parametrize("version", [(2, 7), (3, 9), (3, 13), (4, 0)])
def test_python_that_was_asked_for_is_not_replaced(project: Project, version: tuple[int, int]) -> None:
    project.python("python3.10", version)
    refused = project.make("install", "PYTHON=python3.10")
    assert refused.returncode != 0
    first, *rest = refused.stderr.splitlines()
    assert "3.10, 3.11 or 3.12" in first
    assert all(line.startswith("make: ***") for line in rest)
    assert project.done() == []
    assert not (project.folder / ".venv").exists()


def test_clean_keeps_results(project: Project) -> None:
    for name in (
        ".venv",
        ".mypy_cache",
        "dist",
        "graphkd/__pycache__",
        "graphkd_cli",
        "tests",
        "results/run",
    ):
        (project.folder / name).mkdir(parents=True)
    project.make("clean").check_returncode()
    left = {path.name for path in project.folder.rglob("*") if path.is_dir()}
    assert left == {"graphkd", "graphkd_cli", "tests", "results", "run"}
