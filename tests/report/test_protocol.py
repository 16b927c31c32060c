"""Protocols are named: in records, in captions, and where a table mixes them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_record import make_record

from graphkd.report.grid import build_grids
from graphkd.report.grid_spec import GridSpec
from graphkd.report.markup import Table
from graphkd.report.protocol import Protocol
from graphkd.report.record import Record, read
from graphkd.report.tables import TableSpec, build_tables

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "configs" / "table"
BENCHMARK = Protocol(
    epochs=240, batch_size=64, views=1, augmentation="crop+flip", teacher="own", reported="last"
)  # fmt: skip
LONGER = dataclasses.replace(BENCHMARK, epochs=480, views=2)
ALONE = dataclasses.replace(BENCHMARK, teacher="none")
SPEC = TableSpec("short", ("test_top1_last",))


def runs(variant: str, protocol: Protocol | None, **changes: Any) -> list[Record]:
    """Three finished runs of a variant."""
    fields = {"variant": variant, "identity": variant, "protocol": protocol, "data": "cifar100", **changes}
    return [make_record(seed=seed, **fields) for seed in range(3)]


def columns(*records: list[Record]) -> Table:
    (table,) = build_tables([record for of in records for record in of], SPEC)
    return table


def grid(name: str, *records: list[Record]) -> Table:
    spec = GridSpec.from_mapping({**yaml.safe_load((TABLES / f"{name}.yaml").read_text()), "study": None})
    (table,) = build_grids([record for of in records for record in of], spec)
    return table


def test_it_reads_as_a_line() -> None:
    assert str(BENCHMARK) == "240 epochs, batch 64, 1 view, crop+flip, own teacher, last epoch"
    published = Protocol(
        epochs=None, batch_size=None, views=2, augmentation="flip", teacher="published", reported="best_test"
    )
    assert str(published) == "epochs not known, 2 views, flip, published teacher, best epoch on test"


def test_a_record_keeps_it_and_older_ones_have_none() -> None:
    (record, *_) = runs("kd", LONGER)
    assert Record.from_json(record.to_json()) == record
    older = json.loads(record.to_json())
    del older["protocol"]["samples_per_class"]
    assert Record.from_json(json.dumps(older)) == record
    del older["protocol"]
    assert Record.from_json(json.dumps(older)).protocol is None


def test_every_published_record_can_be_read() -> None:
    paths = sorted((ROOT / "results" / "reference").glob("**/record.json"))
    assert paths
    for path in paths:
        assert read(path).status == "done", path


def test_one_protocol_is_in_the_caption() -> None:
    table = columns(runs("kd", BENCHMARK), runs("student", ALONE, teacher=None))
    assert table.caption.endswith("Protocol: 240 epochs, batch 64, 1 view, crop+flip, own teacher.")
    assert list(table.frame["protocol"]) == [str(BENCHMARK), str(ALONE)]
    assert not [note for note in table.notes if "protocol" in note]


def test_mixed_protocols_are_a_note_under_the_table() -> None:
    table = columns(runs("kd", BENCHMARK), runs("views", LONGER), runs("student", ALONE, teacher=None))
    assert "Protocol" not in table.caption
    (note,) = [note for note in table.notes if "protocol" in note]
    assert note == (
        "protocols are mixed, compare accuracies only within one protocol: 240 epochs, batch 64, 1 view, crop+flip, "
        "own teacher (kd); 240 epochs, batch 64, 1 view, crop+flip, no teacher (student); 480 epochs, batch 64, "
        "2 views, crop+flip, own teacher (views)"
    )
    assert "protocols are mixed" in table.markdown()
    assert "protocols are mixed" in table.latex()
    assert "480 epochs" in table.csv()
    assert "protocols are mixed" in "".join(grid("table1", runs("kd", BENCHMARK), runs("views", LONGER)).notes)


def test_records_without_a_protocol_are_told_apart_only_beside_others() -> None:
    assert not [note for note in columns(runs("kd", None)).notes if "protocol" in note]
    table = columns(runs("kd", None), runs("hkd", BENCHMARK))
    assert "older records do not say their protocol: kd" in table.notes
    assert "Protocol" not in table.caption


def test_a_grid_names_the_protocols_of_published_figures() -> None:
    table = grid("table1", runs("kd", BENCHMARK, pair="resnet32x4->resnet8x4"))
    assert table.caption.endswith(f"Protocol: {BENCHMARK}.")
    published = dataclasses.replace(BENCHMARK, teacher="published")
    _, of_paper, elsewhere, *_ = table.blocks
    assert of_paper.title.endswith(f"protocol: {published}")
    assert (
        f"the published figures were obtained under another protocol ({published}) than these runs ({BENCHMARK})"
        in table.notes
    )
    rows = {cells[0]: cells[1:] for cells in elsewhere.rows()}
    assert rows["MLKD+LSKD"] == [
        "78.28", "Sun et al., CVPR 2024 (arXiv 2403.01427)",
        "480 epochs, batch 64, 2 views, crop+flip, published teacher, best epoch on test",
    ]  # fmt: skip


def test_other_papers_figures_are_shown_for_the_pairs_of_the_runs() -> None:
    table = grid("strong", runs("kd", LONGER, pair="resnet56->resnet20"))
    assert [block.header[:2] for block in table.blocks[:2]] == [("method", "resnet56->resnet20")] * 2
    rows = {cells[0]: cells[1] for cells in table.blocks[1].rows()}
    assert rows == {"ICKD": "71.69", "ITRD": "71.47", "WTTM": "71.92", "MLKD+LSKD": "72.33", "SKD": "72.50"}
    assert len(grid("strong", runs("kd", LONGER, pair="a->b")).blocks) == 2, "the accuracies and the seconds"


@pytest.mark.parametrize("name", ["table1", "strong"])
def test_every_figure_of_another_paper_is_that_of_its_pair(name: str) -> None:
    figures = {
        "MLKD+LSKD": [72.33, 78.28, 75.22, 76.95, 78.76, 71.19], "SKD": [72.50, 78.33, 75.75, 76.60, None, None],
        "ITRD": [71.47, 76.69, 74.93, 76.12, 77.40, 71.34], "ICKD": [71.69, 75.48, 73.88, 75.57, None, None],
        "WTTM": [71.92, 76.06, 74.44, 76.37, 76.55, 69.59], "HKD+KD": [None, 76.13, None, None, 76.92, 70.72],
    }  # fmt: skip
    order = ["resnet56->resnet20", "resnet32x4->resnet8x4", "vgg13->vgg8", "wrn_40_2->wrn_16_2",
             "resnet32x4->ShuffleV2", "ResNet50->MobileNetV2"]  # fmt: skip
    spec = GridSpec.from_mapping(yaml.safe_load((TABLES / f"{name}.yaml").read_text()))
    assert spec.elsewhere is not None
    for method, row in spec.elsewhere.rows.items():
        of_pair = dict(zip(order, figures[method], strict=True))
        assert list(row.mean) == [of_pair.get(pair) for pair in spec.pairs]
