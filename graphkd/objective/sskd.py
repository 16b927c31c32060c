"""SSKD: knowledge distillation meets self-supervision on rotated images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.logits import divergences
from graphkd.objective.stage import Stage


@OBJECTIVES.register("sskd")
class SSKD(Objective):
    """T^2 KL between the two networks' outputs for images rotated by 90, 180 and 270 degrees (arXiv 2006.07114).

    `transfer` compares the class probabilities of the rotated images, `selfsupervised` their cosine similarities to all
    upright ones, after a projection head on each network's embedding (section 3.2). Of the rows where the teacher errs,
    only those with the least error are kept. The teacher's head is trained in a pre-training stage, to find the
    upright image of each rotated one.

    The images are rotated after their augmentation, while the released code crops each rotated image anew.

    Attributes:
        student_head: Projection of the student's embedding; `teacher_head` likewise.
    """

    name = "sskd"
    revision = 2  # since the stage has a temperature of its own, 1 as released
    needs_maps = False
    parts = ("transfer", "selfsupervised")
    views = ("weak", "rotated_90", "rotated_180", "rotated_270")

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        stage_temperature: float = 1.0,
        keep_wrong: float = 0.75,
        keep_wrong_transfer: float = 1.0,
        stage_epochs: int = 60,
    ) -> None:
        """Create an SSKD objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            temperature: T of `transfer`, by which logits are divided.
            similarity_temperature: T of `selfsupervised`, by which similarities are divided.
            stage_temperature: T of the stage, by which similarities are divided. The released code divides by nothing
                there, which is 1; graphkd before 0.2 divided by `similarity_temperature`.
            keep_wrong: Share of the rows of `selfsupervised` where the teacher errs that is kept.
            keep_wrong_transfer: The same for `transfer`.
            stage_epochs: Epochs of the stage.

        Raises:
            UserError: An option is out of range.
        """
        super().__init__()
        self.check_positive(
            temperature=temperature,
            similarity_temperature=similarity_temperature,
            stage_temperature=stage_temperature,
        )
        self.check_between_0_and_1(keep_wrong=keep_wrong, keep_wrong_transfer=keep_wrong_transfer)
        self.check_at_least(1, stage_epochs=stage_epochs)
        self.temperature = temperature
        self.similarity_temperature = similarity_temperature
        self.stage_temperature = stage_temperature
        self.keep_wrong = keep_wrong
        self.keep_wrong_transfer = keep_wrong_transfer
        self.stage_epochs = stage_epochs
        self.student_head = _head(student_dim)
        self.teacher_head = _head(teacher_dim)

    def notes(self, setting: Setting) -> Sequence[str]:
        if setting.largest_batch > 1:
            return ()
        return ["a batch has one sample, which is always told from no other, so `selfsupervised` teaches nothing"]

    def stages(self) -> Sequence[Stage]:
        """Return `teacher_head`, which trains the teacher's head."""
        decay_at = (0.5, 0.75)  # the released code's epochs 30 and 45 of 60
        return [Stage("teacher_head", self.stage_epochs, self._teacher_loss, [self.teacher_head], decay_at=decay_at)]

    def freeze(self) -> None:
        self.teacher_head.requires_grad_(False)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the terms `transfer` and `selfsupervised`."""
        batch = batch.select(self.views)
        student, teacher, samples = batch.student, teacher_output(batch), len(batch.labels)
        student_similarities = self._similarities(self.student_head, student.embedding, batch)
        with torch.no_grad():
            teacher_similarities = self._similarities(self.teacher_head, teacher.embedding, batch)
        return {
            "transfer": _divergence(
                student.logits[samples:].float(), teacher.logits[samples:].float(),
                batch.labels.repeat(len(self.views) - 1), self.temperature, self.keep_wrong_transfer,
            ),
            "selfsupervised": _divergence(
                student_similarities, teacher_similarities,
                self._upright(batch), self.similarity_temperature, self.keep_wrong,
            ),
        }  # fmt: skip

    def _teacher_loss(self, batch: DistillationBatch) -> Tensor:
        batch = batch.select(self.views)
        similarities = self._similarities(self.teacher_head, teacher_output(batch).embedding, batch)
        return F.cross_entropy(similarities / self.stage_temperature, self._upright(batch))

    def _similarities(self, head: nn.Module, embedding: Tensor, batch: DistillationBatch) -> Tensor:
        """Return the cosines between projections of rotated and upright images, float32 [3 B, B]."""
        with torch.autocast(embedding.device.type, enabled=False):
            projections = F.normalize(head(embedding.float()), dim=1)
            upright, rotated = projections.tensor_split([len(batch.labels)])
            return rotated @ upright.T

    def _upright(self, batch: DistillationBatch) -> Tensor:
        """Return the index of each rotated image's upright one, int64 [3 B]."""
        return torch.arange(len(batch.labels), device=batch.labels.device).repeat(len(self.views) - 1)


def _head(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))


def _divergence(student: Tensor, teacher: Tensor, truth: Tensor, temperature: float, keep_wrong: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T), softmax(student / T)), mean over the rows that are kept.

    Args:
        student: Scores, float32 [R, C].
        teacher: Scores, float32 [R, C].
        truth: The correct column of each row, int64 [R].
        temperature: T.
        keep_wrong: Share of the rows where the teacher errs that is kept.
    """
    kept = _kept(teacher, truth, keep_wrong)
    return (kept * divergences(student, teacher, temperature)).sum() / kept.sum().clamp_min(1)


def _kept(scores: Tensor, truth: Tensor, keep_wrong: float) -> Tensor:
    """Return a mask of the rows with the truth on top, and of that share of the others that rank it best, bool [R].

    Ties of scores and ranks go to the lower index. Selecting rows instead would have to wait for the device.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = (order == truth[:, None]).int().argmax(1)
    wrong = (ranks > 0).sum()
    places = ranks.argsort(stable=True).argsort()
    return places < len(ranks) - wrong + (keep_wrong * wrong).floor()
