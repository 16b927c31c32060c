"""The top of the command: finds the subcommand and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from graphkd.errors import UserError, choices, did_you_mean, one_line

COMMANDS = {
    "run": "distil one student; train its teacher first if there is none yet",
    "teacher": "train a teacher by itself",
    "ablation": "run a suite: variants x seeds",
    "transfer": "a linear probe of finished students on other data",
    "report": "turn run records into tables (CSV, Markdown, LaTeX) and figures",
    "evaluate": "accuracy of a run or of a file of weights",
    "bench": "time and memory on this machine, beside the published arrangement",
    "plan": "memory and work of HKD at sizes beyond this machine",
    "list": "what there is: builders, gnns, objectives, models, data, suites",
}
MODULES = {"list": "list_parts"}

HELP = f"""\
usage: graphkd COMMAND [ARGUMENTS] [--debug]

Graph-based knowledge distillation, assembled by configuration alone.

{chr(10).join(f"  {name:<10}{what}" for name, what in COMMANDS.items())}

  graphkd run builder=knn gnn=gat        one run, with Hydra overrides
  graphkd run -m gnn=tag,gat seed=0,1    a sweep
  graphkd ablation --dry-run             the runs of the default suite
  graphkd report results/                its tables

`graphkd COMMAND --help` says more. Shell completion: eval "$(graphkd -sc install=bash)".
Exit codes: 0 fine, 1 a run failed, 2 a mistake in what was asked for, 130/143 interrupted.
"""


class Terminated(BaseException):
    """SIGTERM arrived: leave in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line without the program; the process's own by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    return guarded(lambda: _dispatch(words), debug)


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Runs a command; what it raises becomes one line on stderr and the exit code.

    Args:
        command: Returns its own exit code.
        debug: Whether to show the traceback too.
    """
    # How long torch's threads spin while they wait for each other: beside other work, libgomp's own 300,000 makes small
    # networks many times slower; on a quiet machine this is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "" not in sys.path:
        sys.path.append("")  # a user's plugins are modules in the current folder; last, so that they hide nothing
    with contextlib.suppress(ValueError):  # not in the main thread, so somebody else owns the signals
        signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or file of few signs; as Python does it on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(error, 2, str(error), debug)
    except KeyboardInterrupt as error:
        return _fail(error, 130, "interrupted; the same command goes on where it was", debug)
    except Terminated as error:
        return _fail(error, 143, "terminated; the same command goes on where it was", debug)
    except BrokenPipeError:  # whoever read us (head, less) has seen enough; nobody is to write to it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(error, 1, f"{one_line(error)} (--debug shows where)", debug)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    name, rest = words[0], words[1:]
    if name == "--version":
        from importlib.metadata import version

        print(f"graphkd {version('graphkd')}")
        return 0
    if name in ("-sc", "--shell-completion"):
        return _command("completion")(rest)
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"there is no command '{name}'{hint} (commands: {choices(COMMANDS)})")
    return _command(MODULES.get(name, name))(rest)


def _command(module: str) -> Callable[[Sequence[str]], int]:
    command: Callable[[Sequence[str]], int] = importlib.import_module(f"graphkd_cli.{module}").main
    return command


def _fail(error: BaseException, code: int, message: str, debug: bool) -> int:
    from graphkd.report.markup import visible

    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"graphkd: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
