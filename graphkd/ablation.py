"""A suite of runs: from a short description to an explicit list (no torch)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.binding import bind, convert, options_of
from graphkd.errors import UserError, check, choices

_OF_TERM = re.compile(r"objective\.([^.=]+)\.")
"""An override of an option of a term."""


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite.

    Attributes:
        variant: Its name in the suite.
        pair: Its pair, by the name in `configs/pair`, where the suite runs over pairs.
        seed: Its seed.
        overrides: What it changes in the default config, in order, as on the command line.
        changes: Those of the overrides in which variants differ.
    """

    variant: str
    pair: str | None
    seed: int
    overrides: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def varied(self) -> dict[str, str]:
        """The changes by key, as written."""
        return varied(self.changes)

    @property
    def label(self) -> str:
        """The run as messages name it."""
        return " ".join([*([self.pair] if self.pair else []), f"{self.variant} seed {self.seed}"])


@dataclass(eq=False)
class Suite:
    """Variants x pairs x seeds of one study.

    Attributes:
        description: What the suite shows, in a line.
        seeds: Seeds of every variant.
        base: Overrides that all variants share. Those of an option of a term (`objective.hkd.weight=0.3`) count for
            the variants whose objective has that term, which at least one has.
        variants: Overrides of each variant by its name, in the order of the tables.
        pairs: Names in `configs/pair` that every variant runs with; empty where the overrides choose the pair.
        table: The layout in `configs/table` that the suite's tables have.
        figure: The option that is swept, by its path, where the variants are points on an axis.
        baseline: The variant that tests compare the others with.
        transfer: Overrides of `graphkd transfer`, where the students are probed on other data once they are trained.
        comparison: Whether the suite is too long for `graphkd ablation all`.
        terms_of: Returns the terms of the objective that overrides come to; without it, every variant has every term.

    Raises:
        UserError: There is no variant or no seed, a seed or pair is given twice, an override is no `key=value` or
            chooses a pair beside the suite's own, a variant gives the figure's option no number, or the baseline is no
            variant.
    """

    description: str
    seeds: Sequence[int]
    base: Sequence[str]
    variants: Mapping[str, Sequence[str]]
    pairs: Sequence[str] = ()
    table: str = "default"
    figure: str | None = None
    baseline: str | None = None
    transfer: Sequence[str] = ()
    comparison: bool = False
    terms_of: Callable[[Sequence[str]], Collection[str]] | None = None

    def __post_init__(self) -> None:
        check(len(self.variants) > 0, "a suite needs at least one variant")
        check(len(self.seeds) > 0, "a suite needs at least one seed")
        check(len(set(self.seeds)) == len(self.seeds), f"a suite's seeds must differ: {list(self.seeds)}")
        check(len(set(self.pairs)) == len(self.pairs), f"a suite's pairs must differ: {list(self.pairs)}")
        self.variants = {  # YAML reads some names as numbers or booleans
            str(name): convert(overrides, list[str], f"variant '{name}'") for name, overrides in self.variants.items()
        }
        self._check_overrides()
        is_variant = self.baseline is None or self.baseline in self.variants
        check(is_variant, f"the baseline '{self.baseline}' is no variant ({choices(self.variants)})")
        if self.figure is not None:
            for name, overrides in self.variants.items():
                is_point = _is_number(varied(overrides).get(self.figure))
                check(is_point, f"the figure's axis is '{self.figure}', but variant '{name}' gives it no number")

    def _check_overrides(self) -> None:
        for name, overrides in (("base", self.base), ("transfer", self.transfer), *self.variants.items()):
            for override in overrides:
                removes = override.startswith("~")
                check(removes or "=" in override, f"'{override}' in '{name}' is not an override (key=value or ~key)")
            twice = bool(self.pairs) and "pair" in varied(overrides)
            check(not twice, f"'{name}' chooses a pair, but the suite's own are in its list 'pairs'")

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], name: str,
        terms_of: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> Suite:  # fmt: skip
        """Make a suite from the content of `configs/ablation/<name>.yaml`.

        Raises:
            UserError: A key is unknown, missing or of a wrong type, or as in the constructor; it names the suite.
        """
        bound = bind(config, options_of(cls, runtime=["terms_of"]), f"suite '{name}'")
        try:
            return cls(**bound.all, terms_of=terms_of)
        except UserError as error:
            raise UserError(f"suite '{name}': {error}") from error

    def runs(self, study: str) -> list[SuiteRun]:
        """Return every run, seed by seed, so that an interrupted suite has whole seeds, and there pair by pair.

        Raises:
            UserError: A variant has no objective that can be composed, or none has a term that the base changes.
        """
        return [
            SuiteRun(variant, pair, seed, self._overrides(changes, variant, pair, seed, study), changes)
            for seed in self.seeds
            for pair in self.pairs or (None,)
            for variant, changes in self._changes.items()
        ]

    def _overrides(
        self, changes: Sequence[str], variant: str, pair: str | None, seed: int, study: str
    ) -> tuple[str, ...]:
        chosen = [] if pair is None else [f"pair={pair}"]
        names = [f"seed={seed}", f"study={quoted(study)}", f"variant={quoted(variant)}"]
        return (*self.shared, *chosen, *changes, *names)

    @functools.cached_property
    def shared(self) -> tuple[str, ...]:
        """The overrides of the base that count for all variants."""
        return tuple(override for override in self.base if override not in self._of_some)

    @functools.cached_property
    def _terms(self) -> dict[str, Collection[str]]:
        """The terms of each variant's objective, where the base changes an option of one."""
        if self.terms_of is None or not any(map(_term, self.base)):
            return {}
        others = [override for override in self.base if _term(override) is None]
        terms = {}
        for name, overrides in self.variants.items():
            try:
                terms[name] = self.terms_of([*others, *overrides])
            except UserError as error:
                raise UserError(f"variant '{name}': {error}") from error
        for override in self.base:
            term = _term(override)
            known = {each for of_one in terms.values() for each in of_one}
            check(term is None or term in known, f"base: '{override}': no variant's objective has the term '{term}'")
        return terms

    @functools.cached_property
    def _of_some(self) -> list[str]:
        """The overrides of the base whose terms some variants lack."""
        return [override for override in self.base if not all(_applies(override, its) for its in self._terms.values())]

    @functools.cached_property
    def _changes(self) -> dict[str, tuple[str, ...]]:
        """Each variant's own overrides; those of the base whose terms others lack follow its choice of objective."""
        changes = {}
        for name, own in self.variants.items():
            there = [override for override in self._of_some if _applies(override, self._terms[name])]
            place = max((at for at, override in enumerate(own, 1) if override.startswith("objective=")), default=0)
            changes[name] = (*own[:place], *there, *own[place:])
        return changes


def _term(override: str) -> str | None:
    """Return the term of which an override changes an option."""
    found = _OF_TERM.match(override.lstrip("+~"))
    return found and found[1]


def _applies(override: str, terms: Collection[str]) -> bool:
    return _term(override) in {None, *terms}


def quoted(text: str) -> str:
    """Return a text as the value of an override, whatever signs are in it; "1", "null" and "${x}" stay texts."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), literal) + "'"


def varied(overrides: Sequence[str]) -> dict[str, str]:
    """Return values of overrides by key; a removed key has the value "removed"."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key.removeprefix("~"): "removed" if key.startswith("~") else value for key, _, value in pairs}


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False
