"""timm's classifiers, where timm is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from graphkd.errors import UserError, check, did_you_mean, one_line
from graphkd.model.adapter import Wrapped, example_image
from graphkd.model.base import MODELS, check_ends


@MODELS.register_family("timm")
class TimmModel(Wrapped):
    """Any classifier of timm, where that is installed: student=timm/resnet18.

    Args:
        model: The model's name in `timm.list_models`, without a tag of weights.
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        weights: DEFAULT or a tag of pretrained weights (a1_in1k, ...), which timm downloads; else untrained.
        features: As in `graphkd.wrap`.
        embedding: As in `graphkd.wrap`.
        image_size: Height and width of the images, for transformers, which take one size only (224 by default).

    Raises:
        UserError: timm is not installed, the model or its weights do not exist, the options do not fit it, or as in
            `graphkd.wrap`.
    """

    def __init__(
        self,
        model: str,
        num_classes: int,
        in_channels: int = 3,
        weights: str | None = None,
        features: Sequence[str] | None = None,
        embedding: str | None = None,
        image_size: int | None = None,
    ) -> None:
        check_ends(num_classes, in_channels)
        example = example_image(in_channels, image_size)
        options = {} if image_size is None else {"img_size": image_size}
        module = _build(model, weights, {"num_classes": num_classes, "in_chans": in_channels, **options})
        super().__init__(module, features, embedding, num_classes, example)


def _build(name: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model 'timm/{name}' needs timm: python -m pip install timm") from error

    names = timm.list_models()
    what = f"timm model '{name}'"
    check(name in names, f"there is no {what}{did_you_mean(name, names)} (timm.list_models has all)")
    tagged = name if weights in (None, "DEFAULT") else f"{name}.{weights}"
    try:
        module: nn.Module = timm.create_model(tagged, pretrained=weights is not None, **options)
    except Exception as error:  # a download may fail in many ways
        raise UserError(f"{what} cannot be built: {one_line(error)}") from error
    return module
