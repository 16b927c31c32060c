from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkd import UserError
from graphkd.ablation import Suite, quoted, varied

SUITE: dict[str, Any] = {
    "description": "what each part does",
    "seeds": [3, 1],
    "base": ["pair=digits"],
    "variants": {"alone": ["objective=ce"], "hkd": ["objective=hkd", "~objective.kd", "+builder.k=4"], "as_is": []},
}


def test_a_suite_is_every_variant_with_every_seed_seed_by_seed() -> None:
    runs = Suite.from_config(SUITE, "parts").runs("parts")
    assert [(run.variant, run.seed) for run in runs] == [
        (variant, seed) for seed in (3, 1) for variant in ("alone", "hkd", "as_is")
    ]
    assert runs[1].overrides == (
        "pair=digits", "objective=hkd", "~objective.kd", "+builder.k=4", "seed=3", "study='parts'", "variant='hkd'",
    )  # fmt: skip
    assert runs[1].varied == {"objective": "hkd", "objective.kd": "removed", "builder.k": "4"}
    assert runs[2].varied == {}


def test_seeds_can_be_replaced() -> None:
    suite = Suite.from_config(SUITE, "parts")
    suite.seeds = (7,)
    assert {run.seed for run in suite.runs("parts")} == {7}


def test_names_are_texts_whatever_they_look_like() -> None:
    suite = Suite("", [0], [], {1: [], False: [], "it's": []})  # type: ignore[dict-item]
    assert list(suite.variants) == ["1", "False", "it's"]
    assert [run.overrides[-1] for run in suite.runs("s")] == ["variant='1'", "variant='False'", r"variant='it\'s'"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\\\x00", exclude_categories=["Cc"]), min_size=1))
def test_a_quoted_text_comes_back_from_hydra(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_overrides([f"variant={quoted(text)}"])[0]
    assert override.value() == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "at least one variant"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"seeds": "all"}, "option 'seeds' is 'all'"),
        ({"seeds": [0.5]}, "option 'seeds'"),
        ({"variants": {"a": None}}, "variant 'a' is None"),
        ({"variants": {"a": "objective=ce"}}, "variant 'a' is 'objective=ce'"),
        ({"variants": {"a": [{"k": 8}]}}, "variant 'a'"),
        ({"variants": {"a": ["objective"]}}, "'objective' in 'a' is no override"),
        ({"variants": ["a"]}, "option 'variants'"),
        ({"base": ["digits"]}, "'digits' in 'base' is no override"),
        ({"variant": {}}, "suite 'parts' has no option 'variant'; did you mean 'variants'?"),
        ({"description": ...}, "suite 'parts' needs the option 'description'"),
    ],
)
def test_a_suite_that_is_not_well_formed_is_told(changes: dict[str, Any], message: str) -> None:
    config = {key: value for key, value in {**SUITE, **changes}.items() if value is not ...}
    with pytest.raises(UserError) as raised:
        Suite.from_config(config, "parts")
    assert message in str(raised.value)


def test_what_varies_is_told_by_key() -> None:
    assert varied(["gnn=gat", "++builder.k=4", "~objective.kd", "student={name: resnet8}"]) == {
        "gnn": "gat", "builder.k": "4", "objective.kd": "removed", "student": "{name: resnet8}",
    }  # fmt: skip
