"""A suite of runs: from a short description to an explicit list (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.binding import bind, convert, options_of
from graphkd.errors import UserError, check


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite.

    Attributes:
        variant: Its name in the suite.
        seed: Its seed.
        overrides: What it changes in the default config, in order, as on the command line.
        varied: What of it differs from the suite's base: value by key, as written.
    """

    variant: str
    seed: int
    overrides: tuple[str, ...]
    varied: dict[str, str]


class Suite:
    """Variants x seeds of one study.

    Attributes:
        description: What the suite shows, in a line.
        base: Overrides that all variants share.
        variants: Overrides of each variant by its name, in the order of the tables.
        seeds: Seeds of every variant.
    """

    def __init__(
        self, description: str, seeds: Sequence[int], base: Sequence[str], variants: Mapping[str, Sequence[str]]
    ) -> None:
        """A suite.

        Raises:
            UserError: There is no variant or no seed, a seed is given twice, or an override is no `key=value`.
        """
        check(len(variants) > 0, "a suite needs at least one variant")
        check(len(seeds) > 0, "a suite needs at least one seed")
        check(len(set(seeds)) == len(seeds), f"a suite's seeds must differ: {list(seeds)}")
        self.description = description
        self.seeds = tuple(seeds)
        self.base = tuple(base)
        self.variants = {
            str(name): convert(overrides, list[str], f"variant '{name}'") for name, overrides in variants.items()
        }
        for name, overrides in {"base": self.base, **self.variants}.items():
            for override in overrides:
                removes = override.startswith("~")
                check(removes or "=" in override, f"'{override}' in '{name}' is no override (key=value or ~key)")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str) -> Suite:
        """A suite from the content of `configs/ablation/<name>.yaml`.

        Raises:
            UserError: A key is unknown, missing or of a wrong type, or as in the constructor; it names the suite.
        """
        bound = bind(config, options_of(cls), f"suite '{name}'")
        try:
            return cls(**bound.all)
        except UserError as error:
            raise UserError(f"suite '{name}': {error}") from error

    def runs(self, study: str) -> list[SuiteRun]:
        """Every run, seed by seed, so that an interrupted suite has whole seeds."""
        return [
            SuiteRun(
                variant, seed,
                (*self.base, *overrides, f"seed={seed}", f"study={quoted(study)}", f"variant={quoted(variant)}"),
                varied(overrides),
            )
            for seed in self.seeds
            for variant, overrides in self.variants.items()
        ]  # fmt: skip


def quoted(text: str) -> str:
    """A text as the value of an override, whatever signs are in it; "1" and "null" stay texts."""
    return "'" + text.replace("'", "\\'") + "'"


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides as value by key; a removed key has the value "removed"."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {
        key.removeprefix("~"): "removed" if key.startswith("~") else value for key, _, value in pairs
    }
