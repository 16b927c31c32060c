from __future__ import annotations

from collections.abc import Sequence
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


def test_a_suite_over_pairs_has_every_variant_with_each_of_them() -> None:
    suite = Suite.from_config({**SUITE, "base": ["data=digits"], "pairs": ["b", "a"]}, "parts")
    runs = suite.runs("parts")
    assert [(run.seed, run.pair, run.variant) for run in runs] == [
        (seed, pair, variant) for seed in (3, 1) for pair in ("b", "a") for variant in ("alone", "hkd", "as_is")
    ]
    assert runs[0].overrides == (
        "data=digits", "pair=b", "objective=ce", "seed=3", "study='parts'", "variant='alone'",
    )  # fmt: skip
    assert runs[0].label == "b alone seed 3"
    assert runs[0].varied == {"objective": "ce"}, "the record has the pair by itself"


def test_what_a_suite_says_of_its_tables_is_kept() -> None:
    plain = Suite.from_config(SUITE, "parts")
    assert (plain.pairs, plain.table, plain.figure, plain.baseline, plain.comparison) == (
        (), "default", None, None, False,
    )  # fmt: skip
    variants = {"2": ["builder.k=2"], "half": ["+builder.k=0.5"]}
    own = {"table": "short", "figure": "builder.k", "baseline": "half", "comparison": True, "variants": variants}
    suite = Suite.from_config({**SUITE, **own}, "parts")
    assert (suite.table, suite.figure, suite.baseline, suite.comparison) == ("short", "builder.k", "half", True)


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
        ({"variants": {"a": ["objective"]}}, "'objective' in 'a' is not an override"),
        ({"variants": ["a"]}, "option 'variants'"),
        ({"base": ["digits"]}, "'digits' in 'base' is not an override"),
        ({"base": ["digits"], "variants": {"base": ["k=1"]}}, "'digits' in 'base' is not an override"),
        ({"pairs": ["a", "a"]}, "pairs must differ: ['a', 'a']"),
        ({"pairs": "a"}, "option 'pairs' is 'a'"),
        ({"pairs": ["a"]}, "'base' chooses a pair, but the suite's own are in its list 'pairs'"),
        ({"pairs": ["a"], "base": [], "variants": {"x": ["pair=b"]}}, "'x' chooses a pair"),
        ({"baseline": "none"}, "the baseline 'none' is no variant (alone, as_is, hkd)"),
        ({"figure": "builder.k"}, "the figure's axis is 'builder.k', but variant 'alone' gives it no number"),
        ({"figure": "k", "variants": {"a": ["k=nan"]}}, "variant 'a' gives it no number"),
        ({"figure": "k", "variants": {"a": ["k=two"]}}, "variant 'a' gives it no number"),
        ({"comparison": "yes"}, "option 'comparison' is 'yes'"),
        ({"variant": {}}, "suite 'parts' has no option 'variant'; did you mean 'variants'?"),
        ({"description": ...}, "suite 'parts' needs the option 'description'"),
    ],
)
def test_a_suite_that_is_not_well_formed_is_told(changes: dict[str, Any], message: str) -> None:
    config = {key: value for key, value in {**SUITE, **changes}.items() if value is not ...}
    with pytest.raises(UserError) as raised:
        Suite.from_config(config, "parts")
    assert message in str(raised.value)


TERMS = {"objective=ce": ["ce"], "objective=hkd": ["ce", "hkd"], "objective=crd": ["ce", "crd"]}


def terms_of(overrides: Sequence[str]) -> Sequence[str]:
    """The terms of the last choice of an objective."""
    return [terms for word in overrides for choice, terms in TERMS.items() if word == choice][-1]


def of_terms(base: Sequence[str], **variants: Sequence[str]) -> Suite:
    return Suite.from_config({**SUITE, "seeds": [0], "base": base, "variants": variants}, "parts", terms_of)


def test_what_the_base_says_of_a_term_counts_where_it_is() -> None:
    base = ["objective.hkd.weight=0.3", "data=digits", "+objective.hkd.dim=8", "objective.crd.dim=4"]
    suite = of_terms(
        base, alone=["objective=ce"], hkd=["gnn=gat", "objective=hkd", "objective.hkd.weight=1"], crd=["objective=crd"]
    )
    assert suite.shared == ("data=digits",)
    changes = {run.variant: run.changes for run in suite.runs("parts")}
    assert changes == {
        "alone": ("objective=ce",),
        "hkd": (
            "gnn=gat", "objective=hkd", "objective.hkd.weight=0.3", "+objective.hkd.dim=8", "objective.hkd.weight=1",
        ),
        "crd": ("objective=crd", "objective.crd.dim=4"),
    }  # fmt: skip
    varied = {run.variant: run.varied for run in suite.runs("parts")}
    assert varied["hkd"] == {
        "gnn": "gat", "objective": "hkd", "objective.hkd.weight": "1", "objective.hkd.dim": "8",
    }  # fmt: skip
    assert all(run.overrides[:-3] == ("data=digits", *run.changes) for run in suite.runs("parts"))


def test_a_term_that_all_variants_have_is_no_change() -> None:
    base = ["objective=hkd", "objective.hkd.weight=0.3"]
    suite = of_terms(base, as_is=[], other=["gnn=gat"])
    assert suite.shared == tuple(base)
    assert [run.changes for run in suite.runs("parts")] == [(), ("gnn=gat",)]
    assert suite.runs("parts")[1].overrides[:3] == (*base, "gnn=gat")


def test_a_term_that_no_variant_has_is_told() -> None:
    suite = of_terms(["objective.hdk.weight=0.3"], alone=["objective=ce"], hkd=["objective=hkd"])
    with pytest.raises(UserError, match=r"base: 'objective.hdk.weight=0.3': no variant's objective has the term 'hdk'"):
        suite.runs("parts")


def test_what_varies_is_told_by_key() -> None:
    assert varied(["gnn=gat", "++builder.k=4", "~objective.kd", "student={name: resnet8}"]) == {
        "gnn": "gat", "builder.k": "4", "objective.kd": "removed", "student": "{name: resnet8}",
    }  # fmt: skip
