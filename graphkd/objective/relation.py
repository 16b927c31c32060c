"""Relational distillation, assembled from a relation and a discrepancy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.discrepancy import DISCREPANCIES, Discrepancy
from graphkd.errors import UserError, check, choices
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.registry import Registry
from graphkd.relation import RELATIONS, Relation


@OBJECTIVES.register("relation")
class RelationObjective(Objective):
    """The discrepancy of the student's relations between samples, or between classes, from the teacher's.

    Everything is computed in float64: the relations of two networks nearly cancel out.
    """

    name = "relation"

    def __init__(
        self,
        relation: Relation,
        discrepancy: Discrepancy,
        student_dim: int,
        teacher_dim: int,
        between: Literal["samples", "classes"] = "samples",
        on: Literal["logits", "embedding", "map"] = "logits",
    ) -> None:
        """Create a relational objective.

        Args:
            relation: How two samples, or classes, are related.
            discrepancy: How the relations of student and teacher are compared.
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            between: Whether samples or classes are related. Classes have a row for each of their logits.
            on: Which outputs are related: logits, embeddings, or the last feature maps, flattened.

        Raises:
            UserError: The options do not go together.
        """
        super().__init__()
        self.relation = relation
        self.discrepancy = discrepancy
        self.between = between
        self.on = on
        self.needs_maps = on == "map"
        self._check_outputs(student_dim, teacher_dim)
        takes, form = discrepancy.takes, relation.form
        if form not in takes:
            others = _names(DISCREPANCIES, lambda kind: form in kind.takes)
            hint = "" if "matrices" in takes else "; gram and probability_gram give them with normalize=probabilities"
            raise UserError(
                f"objective 'relation': the discrepancy '{discrepancy.name}' compares {' or '.join(takes)}, but the "
                f"relation '{relation.name}' gives {form} (choices: {others}{hint})"
            )

    def _check_outputs(self, student_dim: int, teacher_dim: int) -> None:
        """Check that the outputs that are asked for have the relation that is asked for."""
        if self.on == "logits":
            return
        of_samples = self.between == "samples"
        check(of_samples, f"objective 'relation': between is classes, but on is {self.on} (choices: logits)")
        same_width = self.on == "embedding" and student_dim == teacher_dim
        needs_width = self.relation.keeps_width and not same_width
        if self.relation.needs_logits or needs_width:
            others = _names(RELATIONS, lambda kind: not kind.needs_logits and not kind.keeps_width)
            raise UserError(
                f"objective 'relation': on is {self.on}, but the relation '{self.relation.name}' "
                f"{'needs outputs of one width' if needs_width else 'is of logits'} (choices: {others}; or on=logits)"
            )

    @classmethod
    def maps_needed(cls, options: Mapping[str, Any]) -> int:
        return int(options["on"] == "map")

    def check(self, setting: Setting) -> None:
        classes = setting.num_classes
        if self.between == "classes" and classes < self.fewest:
            others = _names(RELATIONS, lambda kind: kind.fewest <= classes)
            raise UserError(
                f"objective 'relation': '{self._needier.name}' between classes needs {self.fewest} of them, but "
                f"the data have {classes} (choices: between=samples, or a relation of {others})"
            )

    def notes(self, setting: Setting) -> Sequence[str]:
        if self.between == "classes" or setting.largest_batch >= self.fewest:
            return ()
        size = f"{setting.largest_batch} sample{'s' if setting.largest_batch > 1 else ''}"
        return [f"a batch has {size}, but '{self._needier.name}' takes {self.fewest}, so it teaches nothing"]

    @property
    def fewest(self) -> int:
        """Smallest number of samples, or classes, from which there is something to learn."""
        return self._needier.fewest

    @property
    def _needier(self) -> Relation | Discrepancy:
        """The part that needs more samples, or classes."""
        return self.relation if self.relation.fewest >= self.discrepancy.fewest else self.discrepancy

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = self._relations(batch.student, "student"), self._relations(teacher_output(batch), "teacher")
        return {self.name: self.discrepancy.compare(student, teacher).float()}

    def _relations(self, output: NetworkOutput, side: str) -> Tensor:
        rows = self.relation.represent(self._outputs(output, side).flatten(1).double())
        return self.relation.relate(rows.T if self.between == "classes" else rows)

    def _outputs(self, output: NetworkOutput, side: str) -> Tensor:
        if self.on == "logits":
            return output.logits
        if self.on == "embedding":
            return output.embedding
        shows_maps = len(output.features) > 0
        check(shows_maps, f"objective 'relation': it needs a feature map, but the {side}'s network shows none")
        return output.features[-1]


def _names(registry: Registry[Any], fits: Callable[[Any], bool]) -> str:
    return choices(name for name in registry.names() if fits(registry.factory(name)))
