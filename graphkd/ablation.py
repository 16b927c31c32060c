"""A suite of runs: from a short description to an explicit list (no torch)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.binding import bind, convert, options_of
from graphkd.errors import UserError, check, choices


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite.

    Attributes:
        variant: Its name in the suite.
        pair: Its pair, by the name in `configs/pair`, where the suite runs over pairs.
        seed: Its seed.
        overrides: What it changes in the default config, in order, as on the command line.
        varied: What of it differs from the suite's base: value by key, as written.
    """

    variant: str
    pair: str | None
    seed: int
    overrides: tuple[str, ...]
    varied: dict[str, str]

    @property
    def label(self) -> str:
        """The run as messages name it."""
        return " ".join([*([self.pair] if self.pair else []), f"{self.variant} seed {self.seed}"])


class Suite:
    """Variants x pairs x seeds of one study.

    Attributes:
        description: What the suite shows, in a line.
        base: Overrides that all variants share.
        variants: Overrides of each variant by its name, in the order of the tables.
        seeds: Seeds of every variant.
        pairs: Names in `configs/pair` that every variant runs with; empty where the overrides choose the pair.
        table: The layout in `configs/table` that the suite's tables have.
        figure: The option that is swept, by its path, where the variants are points on an axis.
        baseline: The variant that tests compare the others with.
        transfer: Overrides of `graphkd transfer`, where the students are probed on other data once they are trained.
        comparison: Whether the suite is too long for `graphkd ablation all`.
    """

    def __init__(
        self,
        description: str,
        seeds: Sequence[int],
        base: Sequence[str],
        variants: Mapping[str, Sequence[str]],
        pairs: Sequence[str] = (),
        table: str = "default",
        figure: str | None = None,
        baseline: str | None = None,
        transfer: Sequence[str] = (),
        comparison: bool = False,
    ) -> None:
        """A suite.

        Raises:
            UserError: There is no variant or no seed, a seed or pair is given twice, an override is no `key=value` or
                chooses a pair beside the suite's own, a variant gives the figure's option no number, or the baseline
                is no variant.
        """
        check(len(variants) > 0, "a suite needs at least one variant")
        check(len(seeds) > 0, "a suite needs at least one seed")
        check(len(set(seeds)) == len(seeds), f"a suite's seeds must differ: {list(seeds)}")
        check(len(set(pairs)) == len(pairs), f"a suite's pairs must differ: {list(pairs)}")
        self.description = description
        self.seeds = tuple(seeds)
        self.pairs = tuple(pairs)
        self.table = table
        self.figure = figure
        self.baseline = baseline
        self.transfer = tuple(transfer)
        self.comparison = comparison
        self.base = tuple(base)
        self.variants = {
            str(name): convert(overrides, list[str], f"variant '{name}'") for name, overrides in variants.items()
        }
        self._check_overrides()
        known = choices(self.variants)
        check(baseline is None or baseline in self.variants, f"the baseline '{baseline}' is no variant ({known})")
        if figure is not None:
            for name, overrides in self.variants.items():
                is_point = _is_number(varied(overrides).get(figure))
                check(is_point, f"the figure's axis is '{figure}', but variant '{name}' gives it no number")

    def _check_overrides(self) -> None:
        for name, overrides in {"base": self.base, "transfer": self.transfer, **self.variants}.items():
            for override in overrides:
                removes = override.startswith("~")
                check(removes or "=" in override, f"'{override}' in '{name}' is no override (key=value or ~key)")
            twice = bool(self.pairs) and "pair" in varied(overrides)
            check(not twice, f"'{name}' chooses a pair, but the suite's own are in its list 'pairs'")

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
        """Every run, seed by seed, so that an interrupted suite has whole seeds, and there pair by pair."""
        return [
            SuiteRun(variant, pair, seed, self._overrides(variant, pair, seed, study), varied(overrides))
            for seed in self.seeds
            for pair in self.pairs or (None,)
            for variant, overrides in self.variants.items()
        ]

    def _overrides(self, variant: str, pair: str | None, seed: int, study: str) -> tuple[str, ...]:
        chosen = [] if pair is None else [f"pair={pair}"]
        names = [f"seed={seed}", f"study={quoted(study)}", f"variant={quoted(variant)}"]
        return (*self.base, *chosen, *self.variants[variant], *names)


def quoted(text: str) -> str:
    """Return a text as the value of an override, whatever signs are in it; "1", "null" and "${x}" stay texts."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), literal) + "'"


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides as value by key; a removed key has the value "removed"."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key.removeprefix("~"): "removed" if key.startswith("~") else value for key, _, value in pairs}


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False
