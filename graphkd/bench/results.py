"""What a benchmark found, as CSV, JSON and Markdown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from graphkd.bench.case import Settings
from graphkd.bench.measurement import Row
from graphkd.files import make_folder, write_atomically
from graphkd.machine import cores

HEADER = (
    "part", "case", "baseline ms", "graphkd ms", "times faster", "range over rounds", "baseline MiB", "graphkd MiB",
)  # fmt: skip
LEGEND = (
    "Median time of a step; how many times faster, with the smallest and largest ratio within a round; growth of the "
    "memory's peak in the first step of a fresh process."
)
PACKAGES = ("graphkd", "torch", "dgl", "numpy")


@dataclass(frozen=True)
class Results:
    """Rows of a benchmark, the settings and the command that gave them, and the machine (from `hardware`)."""

    rows: Sequence[Row]
    settings: Settings
    command: str
    hardware: dict[str, Any]

    @property
    def caption(self) -> str:
        """Sizes, hardware and versions in a line."""
        size, on = self.settings, self.hardware
        gpu = "" if on["device"] == "cpu" else f", {on['device']}"
        versions = ", ".join(f"{package} {version}" for package, version in on["versions"].items())
        return (
            f"B={size.batch:,}, K={size.negatives:,}, N={size.samples:,}, D={size.dim:,} unless a case says otherwise. "
            f"{on['cpu']}{gpu}, {on['threads']} threads on {on['cores']} cores, load {on['load']} before. {versions}."
        )

    def cells(self) -> list[list[str]]:
        """Return the rows rounded for print, under `HEADER`."""
        return [
            [
                row.part,
                row.case,
                *map(three_digits, (row.baseline_ms, row.graphkd_ms, row.ratio)),
                "" if row.ratio is None else f"{three_digits(row.ratio_min)} to {three_digits(row.ratio_max)}",
                *map(three_digits, (row.baseline_mib, row.graphkd_mib)),
            ]
            for row in self.rows
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the parts, a line each."""
        return list(dict.fromkeys(f"{row.part}: {row.note}" for row in self.rows if row.note))

    def csv(self) -> str:
        """Return the rows, unrounded."""
        import pandas as pd

        text: str = pd.DataFrame(self.rows).to_csv(index=False, lineterminator="\n")
        return text

    def json(self) -> str:
        """Return everything, unrounded."""
        document = {
            "schema": 1,
            "command": self.command,
            "hardware": self.hardware,
            "settings": asdict(self.settings),
            "rows": [asdict(row) for row in self.rows],
        }
        return json.dumps(document, indent=2) + "\n"

    def markdown(self) -> str:
        """Return the printed table with its command, caption, legend and notes."""
        alignment = [":--" if name in ("part", "case") else "--:" for name in HEADER]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, alignment, *self.cells()))
        notes = "\n".join(f"- {note}" for note in (LEGEND, *self.notes))
        return "\n\n".join([f"`{self.command}`", self.caption, table, notes]) + "\n"

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `bench.csv`, `bench.json` and `bench.md`, each whole or not at all, and make the folder.

        Raises:
            UserError: The folder cannot be made.
            OSError: A file cannot be written.
        """
        make_folder(folder)
        texts = {"bench.csv": self.csv(), "bench.json": self.json(), "bench.md": self.markdown()}
        for name, text in texts.items():
            write_atomically(Path(folder, name), text)
        return [Path(folder, name) for name in texts]


def hardware(settings: Settings) -> dict[str, Any]:
    """Return what a benchmark runs on: processor, device, cores, threads, load, and versions of what does the work."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(models, None) or platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else "cpu",
        "cores": cores(),
        "threads": settings.threads,
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def three_digits(value: float | None) -> str:
    """Return a figure as it is printed, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
