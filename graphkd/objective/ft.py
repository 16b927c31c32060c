"""FT: factor transfer from the teacher's paraphrased last map to the student's translated one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.maps import BatchNorm, Shape, one_position_notes, pooled_to_smaller
from graphkd.objective.stage import Stage


@OBJECTIVES.register("ft")
class FT(Objective):
    """mean |f_s - f_t|^p2, f = L2-normalised mean over channels of map^p1 (Kim et al., arXiv 1802.04977, section 3).

    The teacher's map is the code of an autoencoder of its last map, the paraphraser, which is trained in a pre-training
    stage. The student's is its last map after convolutions, the translator, which are trained with it. The larger of
    the two is pooled to the smaller. Layers and exponents are the CRD benchmark's (arXiv 1910.10699).

    Attributes:
        paraphraser: `torch.nn.Sequential` of an encoder and a decoder.
        translator: Convolutions on the student's last map.
    """

    name = "ft"
    fewest_maps = 1

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        rate: float = 0.5,
        p1: int = 2,
        p2: int = 1,
        stage_epochs: int = 30,
        stage_lr: float = 0.01,
    ) -> None:
        """Create an FT objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            rate: Channels of the code, as a share of the teacher's.
            p1: Power to which maps are raised.
            p2: Power to which differences of factors are raised.
            stage_epochs: Epochs of the stage.
            stage_lr: Learning rate of the stage.

        Raises:
            UserError: An option is out of range, or a network has no feature map.
        """
        super().__init__()
        self.check_at_least(1, p1=p1, p2=p2, stage_epochs=stage_epochs)
        self.check_positive(stage_lr=stage_lr)
        for side, shapes in {"student": student_shapes, "teacher": teacher_shapes}.items():
            check(len(shapes) > 0, f"objective 'ft': it needs a feature map, but the {side} has none")
        student, teacher = student_shapes[-1][0], teacher_shapes[-1][0]
        code = int(rate * teacher)
        check(
            code >= 1, f"objective 'ft': rate is {rate}, but must leave at least 1 of the teacher's {teacher} channels"
        )
        self.p1, self.p2 = p1, p2
        self._notes = one_position_notes(student_shapes[-1:], teacher_shapes[-1:])
        self.stage_epochs, self.stage_lr = stage_epochs, stage_lr
        encoder, decoder = (teacher, teacher, code, code), (code, code, teacher, teacher)
        self.paraphraser = nn.Sequential(_layers(nn.Conv2d, encoder), _layers(nn.ConvTranspose2d, decoder))
        self.translator = _layers(nn.Conv2d, (student, student, code, code), has_norm=True)

    def notes(self, setting: Setting) -> Sequence[str]:
        return self._notes

    def stages(self) -> Sequence[Stage]:
        """Return `paraphraser`, in which the paraphraser learns to reconstruct the teacher's map."""
        modules = [self.paraphraser]
        return [Stage("paraphraser", self.stage_epochs, self._reconstruction_loss, modules, lr=self.stage_lr)]

    def freeze(self) -> None:
        self.paraphraser.requires_grad_(False)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = batch.student.features[-1].float(), teacher_output(batch).features[-1].float()
        with torch.autocast(student.device.type, enabled=False):
            translation = self.translator(student)
            with torch.no_grad():
                paraphrase = self.paraphraser[0](teacher)
        student_factor, teacher_factor = (self._factor(map_) for map_ in pooled_to_smaller(translation, paraphrase))
        return {self.name: (student_factor - teacher_factor).abs().pow(self.p2).mean()}

    def _factor(self, map_: Tensor) -> Tensor:
        """Take a map, float32 [B, C, H, W], to unit rows, [B, H W]."""
        return F.normalize(map_.pow(self.p1).mean(1).flatten(1), dim=1)

    def _reconstruction_loss(self, batch: DistillationBatch) -> Tensor:
        teacher = teacher_output(batch).features[-1].float()
        return F.mse_loss(self.paraphraser(teacher), teacher)


def _layers(
    convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: Sequence[int], has_norm: bool = False
) -> nn.Sequential:
    """Return 3x3 convolutions that keep the size, each followed by BatchNorm (`has_norm`) and LeakyReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        norm = [BatchNorm(outputs)] if has_norm else []
        layers += [convolution(inputs, outputs, 3, padding=1), *norm, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
