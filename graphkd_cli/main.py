"""Top-level command: dispatches to subcommands and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from graphkd.errors import UserError, one_line, one_of
from graphkd.registry import place_in_plugin

COMMANDS = {
    "run": "distil one student; train its teacher first if there is none yet",
    "teacher": "train a teacher by itself",
    "ablation": "run a suite: variants x seeds",
    "transfer": "probe finished students on other data with a linear classifier",
    "report": "turn run records into tables (CSV, Markdown, LaTeX) and figures",
    "show": "print a finished run and its curves, and draw its graphs, relations and embeddings",
    "evaluate": "print the accuracy of a run or of a file of weights",
    "predict": "print the classes of images by a finished run",
    "export": "write a run's network for use elsewhere: ONNX, TorchScript, weights, a model card",
    "bench": "measure time and memory on this machine, against the published arrangement",
    "plan": "compute memory and work of HKD at sizes beyond this machine",
    "doctor": "check the installation and this machine",
    "list": "list all parts, pairs, suites and table layouts; of a kind that is named, the options",
}
COMPLETION = ("-sc", "--shell-completion")

HELP = f"""\
usage: graphkd COMMAND [ARGUMENTS] [--debug]

Graph-based knowledge distillation, assembled by configuration alone.

{chr(10).join(f"  {name:<10}{what}" for name, what in COMMANDS.items())}

  graphkd run builder=knn gnn=gat        one run, with Hydra overrides
  graphkd run -m gnn=tag,gat seed=0,1    a sweep
  graphkd ablation --dry-run             the runs of the default suite
  graphkd report results/                its tables

`graphkd COMMAND --help` says more. Shell completion: eval "$(graphkd -sc install=bash)".
Exit codes: 0 success, 1 a run failed, 2 a user error, 130/143 interrupted.
"""


class Terminated(BaseException):
    """Raised by SIGTERM or when the terminal is closed, for an orderly exit."""


class _Screen(io.FileIO):
    """Output stream that drops text that cannot be shown: a closed screen must not end a run."""

    error: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write bytes; after a failed write, drop them."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: The command line without the program; the process's own by default.
    """
    if arguments is None and sys.flags.optimize:
        _begin_again()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    code = guarded(lambda: _dispatch(words), debug)
    error = _lost()
    if error is None or code != 0:
        return code
    if not isinstance(error, BrokenPipeError):  # the reader (head, less) has seen enough
        print(f"graphkd: standard output could not be written to: {error.strerror}", file=sys.stderr)
    return 1


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr and an exit code.

    With `debug` the traceback is shown too.
    """
    # How long torch's threads spin while they wait for each other: beside other work, libgomp's default, 300,000, makes
    # small networks many times slower; on a quiet machine this is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Processes of launchers and data loaders search Python's own modules first, too.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    _open_screens()
    if "" not in sys.path:
        sys.path.append("")  # plug-ins may be modules in the current folder; last, so that they hide nothing
    with contextlib.suppress(ValueError):  # not in the main thread, so the signals are not ours
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, _terminate)
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(error, 2, str(error), debug)
    except KeyboardInterrupt as error:
        return _fail(error, 130, "interrupted; run the same command again to resume", debug)
    except Terminated as error:
        return _fail(error, 143, "terminated; run the same command again to resume", debug)
    except Exception as error:
        return _fail(error, 1, f"{one_line(error)}{place_in_plugin(error)} (--debug shows where)", debug)


def _begin_again() -> NoReturn:
    """Run the same command without `python -O`, which removes assertions that Hydra's parser relies on."""
    again = "import sys; from graphkd_cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONOPTIMIZE": "", "PYTHONSAFEPATH": "1"}
    os.execve(sys.executable, [sys.executable, "-c", again, *sys.argv[1:]], environment)


def _open_screens() -> None:
    """Make stdout and stderr accept everything, even if they are closed or full."""
    for number in range(3):  # else the next opened file takes the place of a closed one, with its output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: io.TextIOWrapper | None = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            encoding = "utf-8" if stream is None else stream.encoding
            # Characters that the terminal lacks are escaped, as Python does on stderr.
            setattr(sys, name, io.TextIOWrapper(
                io.BufferedWriter(_Screen(number, "w", closefd=False)), encoding, errors="backslashreplace",
                line_buffering=stream is None or stream.line_buffering or stream.write_through,
            ))  # fmt: skip


def _lost() -> OSError | None:
    """Return why output was lost, or None."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Screen) else None


def _dispatch(words: list[str]) -> int:
    if words[0:1] == ["help"] and len(words) == 2:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    name, rest = words[0], words[1:]
    if name == "--version":
        from importlib.metadata import version

        print(f"graphkd {version('graphkd')}")
        return 0
    if name in COMPLETION:
        name = "completion"
    else:
        one_of(name, COMMANDS, "there is no command")
    command = importlib.import_module(f"graphkd_cli.{name}")
    if name in COMMANDS and ("--help" in rest or "-h" in rest):
        print(command.HELP, end="")
        return 0
    return int(command.main(rest))


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
