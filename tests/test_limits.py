"""Every test has a time limit, and one that hangs, in C code too, does not keep the others from running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import ctypes, time
import limits

limits.GRACE = 5

def test_in_c_code():
    lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    while True:
        lock(mutex)  # the second time for ever, and with the interpreter's lock

def test_in_python():
    while True:
        time.sleep(0.01)

def test_that_passes():
    pass
"""


@pytest.mark.slow
def test_a_test_that_hangs_does_not_stop_the_suite(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    (tmp_path / "test_hangs.py").write_text(HANGS)
    (tmp_path / "pyproject.toml").write_text((tests.parent / "pyproject.toml").read_text())
    (tmp_path / "tests").symlink_to(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "--timeout", "0.5", "-p", "limits", "test_hangs.py"],
        cwd=tmp_path, env={"PATH": "", "PYTHONPATH": str(tests)}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert "2 failed, 1 passed" in done.stdout
    assert "crashed while running 'test_hangs.py::test_in_c_code'" in done.stdout
    assert "Timeout (>0.5s)" in done.stdout
    assert "in test_in_c_code" in done.stderr


def test_each_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    marks = {
        name: [mark.args[0] for item in request.session.items if item.get_closest_marker(name)
               if (mark := item.get_closest_marker("timeout"))]
        for name in ("slow", "soak")
    }  # fmt: skip
    assert float(request.config.getini("timeout")) > 0
    for name in marks:
        of_name = [item for item in request.session.items if item.get_closest_marker(name)]
        assert len(marks[name]) == len(of_name), "limits.py gives each slow or soak test its own"
