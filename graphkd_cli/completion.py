"""Shell completion as Hydra gives it.

Hydra's script asks the top command without a subcommand; the overrides that it completes are those of `run`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from graphkd.errors import UserError
from graphkd_cli.compose import call, hydra_session
from graphkd_cli.main import COMMANDS

TAKES_OVERRIDES = {"run", "teacher", "ablation", "evaluate"}


def main(arguments: Sequence[str]) -> int:
    """Answers `graphkd -sc install=SHELL | uninstall=SHELL | query=SHELL`; returns the exit code."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if arguments and arguments[0].startswith("query=") and words:
        if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
            print(" ".join(name for name in COMMANDS if name.startswith(words[1] if len(words) == 2 else "")))
            return 0
        if words[1] not in TAKES_OVERRIDES:
            return 0
        os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
    with hydra_session() as hydra:
        try:
            call(lambda: hydra.shell_completion("config", list(arguments)))
        except ValueError as error:
            raise UserError(f"shell completion: {' '.join(str(error).split())}") from error
    return 0
