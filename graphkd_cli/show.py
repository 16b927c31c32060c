"""Tables and lines as the commands print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graphkd.identity import short

if TYPE_CHECKING:
    from graphkd.run import Outcome  # loads torch, which tables do not need


def console() -> Console:
    """Where commands print to, brackets as they are; wide enough for tables where there is no terminal."""
    plain = Console(markup=False)
    return plain if plain.is_terminal and plain.width > 0 else Console(markup=False, width=200)


def print_line(screen: Console, text: str) -> None:
    """A line as it is, not wrapped."""
    screen.print(text, highlight=False, soft_wrap=True)


def rounded(value: float | None, decimals: int) -> str | None:
    """A figure as it is shown."""
    return None if value is None else f"{value:.{decimals}f}"


def percent(value: float | None) -> str | None:
    """An accuracy as it is shown."""
    return rounded(value, 2)


def print_figures(screen: Console, title: str, figures: Mapping[str, str | None]) -> None:
    """A title and a table of figures by name; those without a value are left out."""
    table = Table(show_header=False)
    for name, value in figures.items():
        if value is not None:
            table.add_row(name, value)
    print_line(screen, title)
    screen.print(table)


def print_reused(screen: Console, outcome: Outcome, message: str) -> None:
    """Say that a finished run is used again, and what of its code has changed since."""
    if outcome.reused:
        screen.print(message, highlight=False)
        for module in outcome.changed:
            print_line(screen, f"The plug-in {module} has changed since this run was made: force=true runs it again.")


def print_outcome(screen: Console, outcome: Outcome) -> None:
    """The short table that a run ends with."""
    record, metrics = outcome.record, outcome.record.metrics
    figures = {
        "test top-1, last epoch (%)": percent(metrics.test_top1_last),
        "test top-1 at best validation (%)": percent(metrics.test_top1_at_best_val),
        "validation top-1, best (%)": percent(metrics.val_top1_best),
        "test top-5, last epoch (%)": percent(metrics.test_top5_last),
        "test top-1, best epoch (%, chosen on test)": percent(metrics.test_top1_max),
        "test negative log-likelihood": rounded(metrics.test_nll_last, 4),
        "agreement with the teacher (%)": percent(metrics.agreement_last),
        "teacher's test top-1 (%)": percent(record.teacher.accuracy if record.teacher else None),
        "seconds": rounded(record.duration_s, 1),
        "identity": short(record.identity),
        "folder": str(outcome.folder),
    }
    print_figures(screen, f"{record.variant}, seed {record.seed} ({record.pair})", figures)


def outcome_line(outcome: Outcome) -> str:
    """One line for a run of a suite or sweep."""
    record = outcome.record
    changed = "".join(f"; plug-in {module} has changed since" for module in outcome.changed)
    again = f" (was there{changed})" if outcome.reused else f" in {record.duration_s:.0f} s"
    return f"{record.variant} seed {record.seed}: test {percent(record.metrics.test_top1_last)} %{again}"
