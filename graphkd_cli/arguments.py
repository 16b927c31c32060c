"""Parse the arguments of a command; what is wrong is said in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from graphkd.errors import UserError, check, did_you_mean
from graphkd_cli.hydra_internals import get_args_parser
from graphkd_cli.overrides import check_form

NOT_OPTIONS = ("config_path", "config_name", "experimental_rerun")
"""Options of Hydra's command line that ours does not have."""


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand's arguments; errors are `UserError`s of one line."""

    def __init__(self, command: str, parents: Sequence[argparse.ArgumentParser] = (), has_configs: bool = True) -> None:
        """Create a parser with --help and, for a command with configs, --config-dir, unless a parent has them."""
        super().__init__(prog=command, parents=list(parents), add_help=False, allow_abbrev=False)
        if "--help" not in self._option_string_actions:
            self.add_argument("--help", "-h", action="store_true")
        if has_configs and "--config-dir" not in self._option_string_actions:
            self.add_argument("--config-dir", "-cd")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        hint = "; overrides have no dashes" if re.search(r"arguments: --?[\w.]+=", message) else self._nearest(message)
        raise UserError(f"{self.prog}: {message}{hint} (see graphkd {self.prog} --help)")

    def _nearest(self, message: str) -> str:
        """Return a hint at the option that the first unknown one is nearest to."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [option for option in self._option_string_actions if option.startswith("--")]
        return did_you_mean(unknown[1], known) if unknown else ""


def arguments_parser(command: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of Hydra's own command line (overrides, --multirun, --cfg, ...) for a subcommand."""
    return CommandParser(command, parents=[get_args_parser(), *parents])


def parse_arguments(command: str, arguments: Sequence[str], *parents: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse a subcommand's arguments, with the options of `parents`; options may stand among the overrides.

    Raises:
        UserError: An option is unknown, or a word is not an override.
    """
    check("--version" not in arguments, f"{command}: there is no option --version; see graphkd --version")
    parsed = arguments_parser(command, *parents).parse_intermixed_args(list(arguments))
    for name in NOT_OPTIONS:
        given = getattr(parsed, name) is not None
        check(not given, f"{command}: there is no option --{name.replace('_', '-')} (see graphkd {command} --help)")
    check(parsed.package is None or parsed.cfg is not None, f"{command}: --package needs --cfg")
    check(not parsed.resolve or parsed.cfg is not None, f"{command}: --resolve needs --cfg")
    single = not (parsed.multirun and parsed.cfg)
    check(single, f"{command}: --cfg prints the config of one run: leave out -m, and give each option one value")
    check_form(parsed.overrides)
    return parsed
