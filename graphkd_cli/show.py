"""Tables and lines as the commands print them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from graphkd.identity import short
from graphkd.run import Outcome


def console() -> Console:
    """Where commands print to; wide enough for tables where there is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=200)


def percent(value: float | None) -> str:
    """An accuracy as it is shown."""
    return "-" if value is None else f"{value:.2f}"


def outcome_table(outcome: Outcome) -> Table:
    """The short table that a run ends with."""
    record, metrics = outcome.record, outcome.record.metrics
    title = f"{record.variant}, seed {record.seed} ({record.pair})"
    table = Table(title=title, title_justify="left", show_header=False)
    rows = {
        "test top-1, last epoch (%)": percent(metrics.test_top1_last),
        "test top-1 at best validation (%)": percent(metrics.test_top1_at_best_val),
        "validation top-1, best (%)": percent(metrics.val_top1_best),
        "test top-5, last epoch (%)": percent(metrics.test_top5_last),
        "test top-1, best epoch (%, chosen on test)": percent(metrics.test_top1_max),
        "test negative log-likelihood": f"{metrics.test_nll_last:.4f}" if metrics.test_nll_last is not None else "-",
        "agreement with the teacher (%)": percent(metrics.agreement_last),
        "teacher's test top-1 (%)": percent(record.teacher.accuracy if record.teacher else None),
        "seconds": f"{record.duration_s:.1f}" if record.duration_s is not None else "-",
        "identity": short(record.identity),
        "folder": str(outcome.folder),
    }
    for name, value in rows.items():
        if value != "-":
            table.add_row(name, value)
    return table


def outcome_line(outcome: Outcome) -> str:
    """One line for a run of a suite or sweep."""
    record = outcome.record
    again = " (was there)" if outcome.reused else f" in {record.duration_s:.0f} s"
    return f"{record.variant} seed {record.seed}: test {percent(record.metrics.test_top1_last)} %{again}"
