from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, OwnConfigs, top

from graphkd_cli.main import COMMANDS

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(command: Command, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Asks for completions as bash does."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        code, out, err = command("-sc", "query=bash")
        assert (code, err) == (0, "")
        return out.split()

    return ask


def test_commands_are_completed(complete: Complete) -> None:
    assert complete("graphkd ru") == ["run"]
    assert complete("graphkd re") == ["report"]
    assert complete("graphkd ") == list(COMMANDS)
    assert complete("graphkd x") == []


def test_overrides_are_completed(complete: Complete, folder: Path) -> None:
    builders = complete("graphkd run builder=")
    assert {"builder=knn", "builder=threshold"} <= set(builders)
    assert complete("graphkd run builder=thr") == ["builder=threshold"]
    assert complete("graphkd run gnn=gat gnn.he") == ["gnn.heads="]
    assert complete("/usr/bin/graphkd teacher teacher_tr") == ["teacher_trainer."]
    assert complete("graphkd ablation digits objective=hkd_") == ["objective=hkd_kd"]
    assert complete("graphkd evaluate results/x.pth builder=kn") == ["builder=knn"]
    assert top(folder) == set()


def test_ones_own_configs_are_completed(complete: Complete, own_configs: OwnConfigs, folder: Path) -> None:
    (folder / "own" / "builder").mkdir(parents=True)
    (folder / "own" / "builder" / "mine.yaml").write_text("name: knn\n")
    assert complete("graphkd run --config-dir own builder=mi") == ["builder=mine"]
    assert complete("graphkd run gnn=gat -cd own builder=mi") == ["builder=mine"]


@pytest.mark.parametrize(
    "line",
    [
        "graphkd report re",
        "graphkd frob x",
        "graphkd run gnn=nope gnn.",
        "graphkd run 'builder=[",
        "graphkd run -cd",
        "",
    ],
)
def test_what_cannot_be_completed_is_no_error(complete: Complete, line: str) -> None:
    complete(line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(command: Command, shell: str) -> None:
    code, out, err = command("-sc", f"install={shell}")
    assert (code, err) == (0, "")
    assert "-sc" in out
    assert command("--shell-completion", f"uninstall={shell}").code == 0
