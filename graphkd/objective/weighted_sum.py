"""Objectives put together: a sum of named, weighted terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import check, choices, did_you_mean
from graphkd.objective.base import Objective, Setting, Stream
from graphkd.objective.stage import Stage

Section = Callable[[str], AbstractContextManager[None]]
"""Makes a context in which something of a name happens, to take its time."""
Weight = float | Mapping[str, float]
"""One weight for all parts of an objective, or one for each part by its name."""


def _no_section(name: str) -> AbstractContextManager[None]:
    return nullcontext()


class Losses(NamedTuple):
    """The loss of a batch and what it is made of: scalars by term, before and after weighting."""

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]


class WeightedSum(nn.Module):
    """sum over terms of weight x objective.

    A term's parts are named `term.part` ("hkd.individual"), or just `term` where the objective has one part of its own
    name ("ce").
    """

    def __init__(self, terms: Mapping[str, tuple[Objective, Weight]]) -> None:
        """Create a sum of objectives.

        Args:
            terms: Objective and weight by the term's name. A mapping as weight names parts; parts left out weigh 1.

        Raises:
            UserError: There is no term, a name has a dot in it, a weight names a part that its objective lacks, or two
                objectives want different views.
        """
        super().__init__()
        check_terms({name: (type(objective), weight) for name, (objective, weight) in terms.items()})
        self.objectives = nn.ModuleDict({name: objective for name, (objective, _) in terms.items()})
        self.weights = {name: weight for name, (_, weight) in terms.items()}

    @property
    def needs_teacher(self) -> bool:
        """Whether any of the objectives looks at a teacher."""
        return any(objective.needs_teacher for objective in self._objectives().values())

    def forward(self, batch: DistillationBatch, section: Section = _no_section) -> Losses:
        """Return the weighted sum on a batch, with its terms; each is computed within a `section` of its name."""
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for term, objective in self._objectives().items():
            with section(term):
                parts = objective(batch if objective.views > 1 else batch.first_view())
            weight = self.weights[term]
            for part, value in parts.items():
                name = term if part == objective.name else f"{term}.{part}"
                raw[name] = value
                weighted[name] = (weight.get(part, 1.0) if isinstance(weight, Mapping) else weight) * value
        # A batch too small for its graph may be left without any term.
        nothing = 0 * batch.student.logits.sum()
        return Losses(sum(weighted.values(), nothing), raw, weighted)

    @property
    def terms_need_teacher(self) -> bool:
        """Whether any of them still does once the stages are over."""
        return any(objective.needs_teacher and objective.has_terms for objective in self._objectives().values())

    @property
    def needs_maps(self) -> bool:
        """Whether any of the objectives looks at feature maps."""
        return any(objective.needs_maps for objective in self._objectives().values())

    @property
    def views(self) -> int:
        """How many views of each sample a batch needs."""
        return max(objective.views for objective in self._objectives().values())

    def check(self, setting: Setting) -> None:
        """Check that a training in this setting can run at all.

        Raises:
            UserError: It cannot; the message names the objective.
        """
        for objective in self._objectives().values():
            objective.check(setting)

    def notes(self, setting: Setting) -> list[str]:
        """Return what will teach nothing in this setting, a line each that names the term."""
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

    @property
    def viewer(self) -> Objective | None:
        """The objective whose views of the images all are shown (`Objective.transform`); None for a single view."""
        return next((objective for objective in self._objectives().values() if objective.views > 1), None)

    def stages(self) -> list[tuple[str, Stage, Objective]]:
        """Return every objective's stages with their full names, `term.stage`, and the objective."""
        return [
            (f"{term}.{stage.name}", stage, objective)
            for term, objective in self._objectives().items()
            for stage in objective.stages()
        ]

    def freeze(self) -> None:
        """Tell every objective that the stages are over."""
        for objective in self._objectives().values():
            objective.freeze()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the run's optimizer trains of all objectives."""
        groups = [group for objective in self._objectives().values() for group in objective.parameter_groups()]
        return [group for group in groups if group["params"]]

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Prepare every objective, each with streams of its own (`Objective.prepare`)."""
        for term, objective in self._objectives().items():
            objective.prepare(device, lambda name, term=term: stream(f"{name}/{term}"))  # type: ignore[misc]

    def after_step(self) -> None:
        """Tell every objective that the optimizer's step was applied."""
        for objective in self._objectives().values():
            objective.after_step()

    def _objectives(self) -> dict[str, Objective]:
        return dict(self.objectives.items())  # type: ignore[arg-type]


def check_terms(terms: Mapping[str, tuple[type[Objective], Weight]]) -> None:
    """Check whether objectives go together under these names and weights, from what their classes declare.

    Raises:
        UserError: As in `WeightedSum`.
    """
    check(len(terms) > 0, "the objective has no term")
    for name, (kind, weight) in terms.items():
        check(name != "" and "." not in name, f"the objective's term '{name}' must have a name without dots")
        _check_weight(name, kind, weight)
    viewers = {name: kind for name, (kind, _) in terms.items() if kind.views > 1}
    check(
        len(set(viewers.values())) <= 1,
        f"the terms {choices(viewers)} want different views of a batch; combine views of one kind only",
    )


def _check_weight(term: str, kind: type[Objective], weight: Weight) -> None:
    parts = kind.parts or (kind.name,)
    for part in weight if isinstance(weight, Mapping) else ():
        hint = did_you_mean(part, parts)
        check(part in parts, f"the weight of '{term}' names the part '{part}'{hint} (its parts: {choices(parts)})")
