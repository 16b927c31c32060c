"""What a reader of a table must know before comparing its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from graphkd.errors import counted
from graphkd.identity import short
from graphkd.report.markup import listed, printable
from graphkd.report.record import Code, Record
from graphkd.report.rows import Row, protocols_of

FEW_SEEDS = 3
_UNFINISHED = {"failed": "failed run", "running": "unfinished run"}


def caveats(rows: Sequence[Row]) -> list[str]:
    """Return what speaks against comparing rows, a line each."""
    kinds = (
        _repeated, _code, _plugins, _files, _teachers, _machines, _groups, _protocols, _unknown_protocols, _seeds,
        _few_seeds,
    )  # fmt: skip
    return [line for kind in kinds for line in kind(rows)]


def left_out(records: Iterable[Record]) -> list[str]:
    """Return lines that count and name the students that are in no table: those that failed or are unfinished."""
    names: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.kind == "student" and record.status != "done":
            names[_UNFINISHED[record.status]].append(f"{record.study}/{record.variant} seed {record.seed}")
    return [f"left out: {counted(len(of), why)}: {listed(sorted(of))}" for why, of in sorted(names.items())]


def _repeated(rows: Sequence[Row]) -> Iterator[str]:
    if again := [f"{row.label} seed {seed}" for row in rows for seed in row.repeated]:
        yield f"recorded more than once, counted once (newest code): {listed(again)}"


def _code(rows: Sequence[Row]) -> Iterator[str]:
    versions = Counter(_provenance(run.code) for row in rows for run in row.runs)
    if len(versions) > 1:
        names = [f"{code}: {counted(n, 'run')}" for code, n in sorted(versions.items())]
        yield f"code versions are mixed: {listed(names)}"


def _plugins(rows: Sequence[Row]) -> Iterator[str]:
    codes = [run.code for row in rows for run in row.runs]
    sources = {(printable(module), source) for code in codes for module, source in code.plugins.items()}
    modules = Counter(module for module, _ in sources)
    if changed := sorted(module for module, n in modules.items() if n > 1):
        yield f"plug-ins changed between runs: {listed(changed)}"


def _files(rows: Sequence[Row]) -> Iterator[str]:
    contents: dict[str, list[str]] = defaultdict(list)
    for content, label in dict.fromkeys((run.content, row.label) for row in rows for run in row.runs if run.content):
        contents[content].append(label)
    if len(contents) > 1:
        of_each = [f"{short(content)} ({listed(labels)})" for content, labels in contents.items()]
        yield f"the files of the data differ, compare accuracies only where they are the same: {'; '.join(of_each)}"


def _machines(rows: Sequence[Row]) -> Iterator[str]:
    machines = sorted({(run.device, run.threads) for row in rows for run in row.runs})
    if len(machines) > 1:
        names = [f"{printable(device)} with {counted(threads, 'thread')}" for device, threads in machines]
        yield f"devices or threads are mixed, so times are not comparable: {listed(names)}"


def _teachers(rows: Sequence[Row]) -> Iterator[str]:
    if several := [row.label for row in rows if len(row.teachers) > 1]:
        yield f"the seeds of a row had several teachers, which adds to its spread: {listed(several)}"


def _groups(rows: Sequence[Row]) -> Iterator[str]:
    sizes = sorted({run.group_size for row in rows for run in row.runs})
    if len(sizes) > 1:
        numbers = " and ".join(map(str, sizes))
        yield f"runs trained in groups of {numbers}, which share work, so times are not comparable"


def _protocols(rows: Sequence[Row]) -> Iterator[str]:
    if len(protocols_of(rows)) > 1:
        of_each = [
            f"{protocol.training} ({listed([row.label for row in rows if protocol in row.protocols])})"
            for protocol in dict.fromkeys(protocol for row in rows for protocol in row.protocols)
        ]
        yield f"protocols are mixed, compare accuracies only within one protocol: {'; '.join(of_each)}"


def _unknown_protocols(rows: Sequence[Row]) -> Iterator[str]:
    unknown = [row.label for row in rows if any(run.protocol is None for run in row.runs)]
    if unknown and any(row.protocols for row in rows):
        yield f"older records do not say their protocol: {listed(unknown)}"


def _seeds(rows: Sequence[Row]) -> Iterator[str]:
    counts = Counter(row.seeds for row in rows)
    if len(counts) > 1:
        usual = max(counts, key=lambda seeds: (counts[seeds], len(seeds), seeds))
        others = [f"{row.label} ({_spaced(row.seeds)})" for row in rows if row.seeds != usual]
        yield f"seeds differ between rows: {_spaced(usual)} is usual, but not for {listed(others)}"


def _few_seeds(rows: Sequence[Row]) -> Iterator[str]:
    if few := [f"{row.label} (n={len(row.runs)})" for row in rows if len(row.runs) < FEW_SEEDS]:
        yield f"fewer than {FEW_SEEDS} seeds, so the spread is unreliable: {listed(few)}"


def _provenance(code: Code) -> str:
    state = ", uncommitted changes" if code.dirty else ""
    return printable(f"{code.version} ({code.git or 'no git hash'}{state})")


def _spaced(seeds: Iterable[int]) -> str:
    return " ".join(map(str, seeds))
