"""Shell completion, by Hydra.

Hydra's script calls the top command without a subcommand; the overrides of `run` are completed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence

from graphkd.errors import UserError
from graphkd_cli.config_files import hydra_session
from graphkd_cli.main import COMMANDS
from graphkd_cli.refusals import call

TAKES_OVERRIDES = {"run", "teacher", "ablation", "evaluate"}


def main(arguments: Sequence[str]) -> int:
    """Answer `graphkd -sc install=SHELL | uninstall=SHELL | query=SHELL`; return the exit code."""
    if arguments and arguments[0].startswith("query="):
        with contextlib.suppress(UserError):  # a half-typed line is not an error
            _query(arguments, os.environ.get("COMP_LINE", ""))
    else:
        _hydra(arguments)
    return 0


def _query(arguments: Sequence[str], line: str) -> None:
    *words, last = line.split(" ")
    if len(words) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith(last)))
    elif words[1] in TAKES_OVERRIDES and not last.startswith("-"):
        overrides = [word for word in words[2:] if "=" in word]
        config_dir = [value for word, value in itertools.pairwise(words) if word in ("--config-dir", "-cd")]
        os.environ["COMP_LINE"] = " ".join([words[0], *overrides, last])
        _hydra(arguments, *config_dir[:1])


def _hydra(arguments: Sequence[str], config_dir: str | None = None) -> None:
    with hydra_session(config_dir) as hydra:
        try:
            call(lambda: hydra.shell_completion("config", list(arguments)))
        except ValueError as error:
            raise UserError(f"shell completion: {' '.join(str(error).split())}") from error
