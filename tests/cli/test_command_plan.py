from __future__ import annotations

import pytest

from graphkd_cli.main import main


def rows(shown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]


def test_a_row_for_every_combination(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "samples=1e6,1_000_000_000", "world=1,64", "dtype=bfloat16", "--gflops", "100"]) == 0
    header, _, *found = rows(capsys.readouterr().out)
    assert header[-1] == "ms at 100 GFLOP/s"
    assert [row[0] for row in found] == ["1,000,000"] * 2 + ["1,000,000,000"] * 2
    assert [row[4] for row in found] == ["1", "64"] * 2
    rows_of_both_banks = 2 * 1e9 * 128 * 2 / 2**30
    labels = 8 * 1e9 / 2**30
    assert float(found[2][5]) == pytest.approx(rows_of_both_banks + labels, abs=0.5)
    assert float(found[3][5]) == pytest.approx(rows_of_both_banks / 64 + labels, abs=0.05)
    gflop = 16 * 64 * 16_384 * 128 / 1e9
    assert [float(row[8]) for row in found] == pytest.approx([gflop, gflop / 64] * 2, rel=0.01)
    assert [float(row[9]) for row in found] == pytest.approx([10 * gflop, 10 * gflop / 64] * 2, rel=0.01)


def test_by_default_it_is_cifar(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 0
    (row,) = rows(capsys.readouterr().out)[2:]
    assert row[:5] == ["50,000", "64", "16,384", "float32", "1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample=3"], "plan has no option 'sample'; did you mean 'samples'?"),
        (["samples=x"], "plan: option 'samples' is 'x', but must be an integer"),
        (["samples=1.5"], "plan: option 'samples' is '1.5', but must be an integer"),
        (["samples=0"], "plan: samples is 0, but must be at least 1"),
        (["samples=3", "world=4"], "plan: 3 samples cannot be shared among 4 processes"),
        (["length=9", "world=4"], "plan: a queue is kept whole by every process"),
        (["dtype=bf16"], "option 'dtype' is 'bf16', but must be one of float32, bfloat16, float16"),
        (["nonsense"], "plan: 'nonsense' is not SIZE=VALUE"),
        (["samples="], "plan: 'samples=' is not SIZE=VALUE"),
        (["samples=1e999"], "plan: option 'samples' is '1e999', but must be an integer"),
        (["--gflops=0"], "plan: --gflops is 0.0, but must be positive"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
