"""The objective `relation`: named objectives come out of it, and what does not go together is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import CLASSES, batch
from torch import Tensor

from graphkd import DISCREPANCIES, OBJECTIVES, RELATIONS, DistillationBatch, UserError
from graphkd.objective import Objective
from graphkd.objective.base import Setting
from graphkd.run import parse
from graphkd_cli.compose import compose
from graphkd_cli.main import main

Part = dict[str, Any]
LABELS = torch.arange(200) % 10


def built(relation: Part, discrepancy: Part, widths: tuple[int, int] = (12, 20), **options: Any) -> Objective:
    relation, discrepancy = dict(relation), dict(discrepancy)
    return OBJECTIVES.build(
        "relation",
        relation=RELATIONS.build(relation.pop("name"), **relation),
        discrepancy=DISCREPANCIES.build(discrepancy.pop("name"), **discrepancy),
        student_dim=widths[0],
        teacher_dim=widths[1],
        **options,
    )


def term(objective: Objective, some: DistillationBatch, name: str = "relation") -> Tensor:
    value: Tensor = objective(some)[name]
    return value


def check_equal(one: Tensor, other: Tensor, some: DistillationBatch) -> None:
    """Check that two losses and their gradients by all of the student's outputs are equal."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    outputs = [some.student.logits, some.student.embedding, *some.student.features]
    for mine, theirs in zip(
        torch.autograd.grad(one, outputs, allow_unused=True, retain_graph=True),
        torch.autograd.grad(other, outputs, allow_unused=True, retain_graph=True),
        strict=True,
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


MLKD = {"temperatures": [3.0], "mask": "none", "views": ["weak"]}


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize(
    ("name", "options", "part", "relation", "discrepancy", "own", "scale"),
    [
        ("sp", {}, "sp", {"name": "gram", "normalize": "rows"}, {"name": "l2"}, {"on": "map"}, 1.0),
        ("rkd", {"angle": 0.0}, "rkd", {"name": "distance"}, {"name": "huber"}, {"on": "embedding"}, 25.0),
        ("rkd", {"distance": 0.0}, "rkd", {"name": "angle"}, {"name": "huber"}, {"on": "embedding"}, 50.0),
        ("pkt", {}, "pkt", {"name": "gram", "normalize": "probabilities"}, {"name": "kl", "over": "entries"},
         {"on": "embedding"}, 1.0),
        ("skd", {}, "direction", {"name": "gram"}, {"name": "mahalanobis", "ridge": 0.1 * CLASSES**2}, {}, 1.0),
        ("mlkd", MLKD, "batch", {"name": "probability_gram", "temperature": 3.0},
         {"name": "l2", "over": "rows"}, {}, 1.0),
        ("mlkd", MLKD, "class", {"name": "probability_gram", "temperature": 3.0},
         {"name": "l2", "over": "rows"}, {"between": "classes"}, 1.0),
    ],
)  # fmt: skip
def test_named_objectives_come_out_of_it(
    name: str, options: Part, part: str, relation: Part, discrepancy: Part, own: Part, scale: float, size: int
) -> None:
    some = batch(size)
    assembled, named = built(relation, discrepancy, **own), OBJECTIVES.build(name, **options)
    check_equal(scale * term(assembled, some), term(named, some, part), some)


def test_mlkd_is_a_sum_of_them() -> None:
    some, temperatures = batch(8), [2.0, 3.0, 4.0, 5.0, 6.0]
    each = [
        built({"name": "probability_gram", "temperature": temperature}, {"name": "l2", "over": "rows"})
        for temperature in temperatures
    ]
    named = OBJECTIVES.build("mlkd", temperatures=temperatures, mask="none", views=["weak"])
    check_equal(torch.stack([term(one, some) for one in each]).sum(), term(named, some, "batch"), some)


def test_edges_of_irg_are_a_mean_of_them() -> None:
    some = batch(8)
    for output in (some.student, some.teacher):
        assert output is not None
        output.features[-2:] = [output.features[-1], output.features[-1]]
    relation = {"name": "distance", "normalize": "max", "squared": True}
    of_embedding, of_map = (term(built(relation, {"name": "l2"}, on=on), some) for on in ("embedding", "map"))
    check_equal((of_embedding + 2 * of_map) / 3, term(OBJECTIVES.build("irg"), some, "edges"), some)


def test_between_classes_it_relates_the_columns() -> None:
    some = batch(8)
    assert some.teacher is not None
    cosines = [torch.nn.functional.normalize(output.logits, dim=0) for output in (some.student, some.teacher)]
    mine, theirs = (columns.T @ columns for columns in cosines)
    found = term(built({"name": "gram"}, {"name": "l2"}, between="classes"), some)
    torch.testing.assert_close(found, (mine - theirs).square().mean())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["discrepancy=kl"],
         "'kl' compares distributions, but the relation 'gram' gives matrices (choices: cosine, huber, l2, maha"),
        (["relation=angle", "discrepancy=mahalanobis"],
         "'mahalanobis' compares matrices or distributions, but the relation 'angle' gives tensors (choices: cosi"),
        (["on=map", "between=classes"], "between is classes, but on is map (choices: logits)"),
        (["on=embedding", "relation=probability_gram"],
         "on is embedding, but the relation 'probability_gram' is of logits (choices: angle, distance, gram; or on=lo"),
        (["on=map", "relation=difference"],
         "on is map, but the relation 'difference' needs outputs of one width (choices: angle, distance, gram; or on="),
        (["relation=dist"], "there is no relation 'dist'; did you mean 'distance'? (choices: angle, diff"),
        (["relation={name: distance, normalize: row}"], "option 'normalize' is 'row', but must be one of none, mea"),
        (["relation.temperature=2"], "has no option 'temperature'; probability_gram has it (its options: name, normal"),
        (["discrepancy=null"], "needs a discrepancy, for example objective.relation.discrepancy=NAME (choices: cosine"),
        (["on=images"], "option 'on' is 'images', but must be one of logits, embedding, map"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told_before_anything_starts(overrides: list[str], message: str) -> None:
    words = [f"objective.relation.{override}" for override in overrides]
    with pytest.raises(UserError) as error:
        parse(compose(["objective=relation", *words]).config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_vectors_of_embeddings_need_one_width() -> None:
    parts = {"name": "difference"}, {"name": "huber"}
    with pytest.raises(UserError, match="needs outputs of one width"):
        built(*parts, on="embedding")
    built(*parts, (8, 8), on="embedding")


def test_angles_need_three_classes_or_samples() -> None:
    parts = {"name": "angle"}, {"name": "l2"}
    of_classes, of_samples = built(*parts, between="classes"), built(*parts)
    of_classes.check(Setting(LABELS % 3, 3, batch_size=8))
    with pytest.raises(
        UserError, match=r"'angle' between classes needs 3 .* have 2 .*a relation of difference, gram, p"
    ):
        of_classes.check(Setting(LABELS % 2, 2, batch_size=8))
    (note,) = of_samples.notes(Setting(LABELS, 10, batch_size=2))
    assert "a batch has 2 samples, but 'angle' takes 3, so it teaches nothing" in note
    assert not of_samples.notes(Setting(LABELS, 10, batch_size=3))


def test_the_part_that_needs_more_is_named() -> None:
    objective = built({"name": "gram", "normalize": "none"}, {"name": "cosine"})
    assert objective.notes(Setting(LABELS, 10, batch_size=1)) == [
        "a batch has 1 sample, but 'cosine' takes 2, so it teaches nothing"
    ]


@pytest.mark.parametrize("relation", RELATIONS.names())
def test_below_its_fewest_samples_it_teaches_nothing(relation: str) -> None:
    objective = built({"name": relation}, {"name": "l2"})
    if objective.notes(Setting(LABELS, 10, batch_size=1)):
        some = batch(1)
        (gradient,) = torch.autograd.grad(term(objective, some), some.student.logits)
        assert gradient.abs().max() < 1e-9


def test_options_of_its_parts_count_in_the_identity() -> None:
    def identity(*words: str) -> str:
        return parse(compose(["objective=relation", *(f"objective.relation.{word}" for word in words)]).config).identity

    found = [identity(), identity("relation=distance"), identity("relation=distance", "relation.normalize=max"),
             identity("discrepancy=huber"), identity("discrepancy={name: huber, delta: 2.0}")]  # fmt: skip
    assert len(set(found)) == len(found)
    assert identity("relation=gram", "discrepancy={name: l2}") == found[0], "a name stands for its defaults"


def test_maps_are_needed_only_where_it_looks_at_them() -> None:
    assert [built({"name": "gram"}, {"name": "l2"}, on=on).needs_maps for on in ("logits", "embedding", "map")] == [
        False, False, True,
    ]  # fmt: skip
    assert OBJECTIVES.factory("relation").maps_needed({"on": "map"}) == 1
    assert OBJECTIVES.factory("relation").maps_needed({"on": "logits"}) == 0


def test_a_plug_ins_relation_is_a_part_like_any_other(
    plugin: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(
        "own_relation",
        """
        from graphkd import RELATIONS
        from graphkd.relation import Relation

        @RELATIONS.register("covariance")
        class Covariance(Relation):
            "Products of centred rows."
            name = "covariance"

            def __init__(self, scale: float = 1.0) -> None:
                self.scale = scale

            def relate(self, rows):
                centred = rows - rows.mean(0)
                return self.scale * centred @ centred.T
        """,
    )
    words = ["objective=relation", "plugins=[own_relation]", "objective.relation.relation={name: covariance, scale: 2}"]
    spec = parse(compose(words).config)
    assert spec.terms["relation"].own_parts["relation"].bound.all == {"scale": 2.0}
    assert "own_relation" in spec.plugins
    assert main(["list", "relations", "plugins=[own_relation]"]) == 0
    assert "Products of centred rows." in capsys.readouterr().out
