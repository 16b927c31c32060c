"""Weighted sums of objectives, by named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import UserError, check, one_line, one_of
from graphkd.objective.base import Objective, Setting, Stream
from graphkd.objective.schedule import Schedule
from graphkd.objective.stage import Stage

Section = Callable[[str], AbstractContextManager[Any]]
"""Returns the context in which the part of a name is computed, for example to time it."""
Weight = float | Mapping[str, float]
"""One weight for all parts of an objective, or a weight for each part by its name."""


class Losses(NamedTuple):
    """Loss of a batch, its terms by name before and after weighting, and its diagnostics by name; all scalars."""

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    diagnostics: Mapping[str, Tensor] = {}


class WeightedSum(nn.Module):
    """sum over terms of weight x objective.

    A part of a term is named `term.part` ("hkd.individual"), or just `term` if it has the objective's own name ("ce").
    """

    def __init__(
        self, terms: Mapping[str, tuple[Objective, Weight]], schedules: Mapping[str, Schedule] | None = None
    ) -> None:
        """Create a sum of objectives.

        Args:
            terms: Objective and weight by the term's name. A mapping as weight names parts; others weigh 1.
            schedules: How weights change over the training, by the term's name; others stay as they are.

        Raises:
            UserError: There is no term, a name is empty or has a dot, a weight names a part that an objective lacks,
                or an objective's `views` are not names.
        """
        super().__init__()
        check_terms({name: (type(objective), weight) for name, (objective, weight) in terms.items()})
        for name, (objective, _) in terms.items():  # plug-ins of earlier versions have a number
            check(
                isinstance(objective.views, tuple),
                f"the term '{name}': `views` of its class {type(objective).__name__} is {objective.views}, but must be "
                "a tuple of names of views (graphkd.data.views)",
            )
        self.objectives = nn.ModuleDict({name: objective for name, (objective, _) in terms.items()})
        self.weights = {name: weight for name, (_, weight) in terms.items()}
        self.schedules = dict(schedules or {})

    @property
    def needs_teacher(self) -> bool:
        """Whether any objective needs a teacher."""
        return any(objective.needs_teacher for objective in self._objectives().values())

    def forward(self, batch: DistillationBatch, section: Section = nullcontext) -> Losses:
        """Return the losses of a batch; each term is computed within the `section` of its name."""
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        diagnostics: dict[str, Tensor] = {}
        for term, objective in self._objectives().items():
            own = None if batch.diagnostics is None else dict[str, Tensor]()
            seen = replace(batch, diagnostics=own)
            with section(term):
                parts = _parts(objective, seen.select(objective.views), term)
            _check_parts(parts, term, objective)
            diagnostics |= {f"{term}.{name}": value for name, value in (own or {}).items()}
            weight = self.weights[term]
            factor = self.schedules[term].factor(batch.progress) if term in self.schedules else 1.0
            for part, value in parts.items():
                name = term if part == objective.name else f"{term}.{part}"
                raw[name] = value
                weighted[name] = factor * (weight.get(part, 1.0) if isinstance(weight, Mapping) else weight) * value
        # HKD may have no term on a batch that is too small for its graph.
        nothing = 0 * batch.student.logits.sum()
        return Losses(sum(weighted.values(), nothing), raw, weighted, diagnostics)

    @property
    def terms_need_teacher(self) -> bool:
        """Whether any objective needs a teacher after the pre-training stages."""
        return any(objective.needs_teacher and objective.has_terms for objective in self._objectives().values())

    @property
    def needs_maps(self) -> bool:
        """Whether any objective uses feature maps."""
        return any(objective.needs_maps for objective in self._objectives().values())

    @property
    def views(self) -> frozenset[str]:
        """Names of the views of each sample that a batch needs."""
        return frozenset[str]().union(*(objective.views for objective in self._objectives().values()))

    @property
    def fewest_views(self) -> int:
        """The smallest number of views in a batch that trains the student, in the stages or after them."""
        stages = [objective.views for _, stage, objective in self.stages() if stage.trains_student]
        return min(map(len, [self.views, *stages]))

    def check(self, setting: Setting) -> None:
        """Raise a `UserError` if a training in this setting cannot run."""
        for objective in self._objectives().values():
            objective.check(setting)

    def notes(self, setting: Setting) -> list[str]:
        """Return what will teach nothing in this setting, one line each, which names the term."""
        found: list[str] = []
        for term, objective in self._objectives().items():
            if objective.has_terms and self._weighs_nothing(term, objective):
                found.append(f"objective.{term}: its weight is 0, so it teaches nothing")
            found += [f"objective.{term}: {note}" for note in objective.notes(setting)]
        return found

    def _weighs_nothing(self, term: str, objective: Objective) -> bool:
        weight = self.weights[term]
        if not isinstance(weight, Mapping):
            return weight == 0
        return all(weight.get(part, 1.0) == 0 for part in objective.parts or (objective.name,))

    def stages(self) -> list[tuple[str, Stage, Objective]]:
        """Return all stages with their full names, `term.stage`, and their objectives."""
        return [
            (f"{term}.{stage.name}", stage, objective)
            for term, objective in self._objectives().items()
            for stage in objective.stages()
        ]

    def freeze(self) -> None:
        """Freeze what the stages of all objectives have trained."""
        for objective in self._objectives().values():
            objective.freeze()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of all objectives (`Objective.parameter_groups`)."""
        groups = [group for objective in self._objectives().values() for group in objective.parameter_groups()]
        return [group for group in groups if group["params"]]

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Prepare every objective, each with streams of its own (`Objective.prepare`)."""
        for term, objective in self._objectives().items():
            objective.prepare(device, lambda name, term=term: stream(f"{name}/{term}"))  # type: ignore[misc]

    def after_step(self) -> None:
        """Call every objective's `after_step`."""
        for objective in self._objectives().values():
            objective.after_step()

    def _objectives(self) -> dict[str, Objective]:
        return dict(self.objectives.items())  # type: ignore[arg-type]


def _parts(objective: Objective, batch: DistillationBatch, term: str) -> Any:
    """Return what an objective returns; where it fails on networks of unequal classes, say so."""
    try:
        return objective(batch)
    except RuntimeError as error:
        if batch.teacher is None or batch.teacher.logits.shape == batch.student.logits.shape:
            raise
        raise UserError(
            f"objective.{term}: {type(objective).__name__} cannot compare a teacher of "
            f"{batch.teacher.logits.shape[1]} classes with a student of {batch.student.logits.shape[1]} "
            f"({one_line(error)})"
        ) from error


def _check_parts(parts: Any, term: str, objective: Objective) -> None:
    """Raise a `UserError` unless an objective returned scalars by name."""
    what = f"objective.{term}: {type(objective).__name__}.forward must return"
    check(isinstance(parts, Mapping), f"{what} a dict of scalars by name, not a {type(parts).__name__}")
    for part, value in parts.items():
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        check(isinstance(value, Tensor) and value.ndim == 0, f"{what} scalars (a mean), but its '{part}' is {shape}")


def check_terms(terms: Mapping[str, tuple[type[Objective], Weight]]) -> None:
    """Check names and weights of terms, from what their classes declare; raises as `WeightedSum`."""
    check(len(terms) > 0, "the objective has no term")
    for name, (kind, weight) in terms.items():
        check(name != "" and "." not in name, f"the objective's term '{name}' must have a name without dots")
        for part in weight if isinstance(weight, Mapping) else ():
            one_of(part, kind.parts or (kind.name,), f"the weight of '{name}' names the part")
