"""torchvision's classifiers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from graphkd.errors import UserError, check, did_you_mean, one_line, one_of
from graphkd.model.adapter import Wrapped, example_image, replace_part
from graphkd.model.base import MODELS, check_ends

_SIZE_OPTIONS = {"vit": "image_size", "maxvit": "input_size"}
"""Name of torchvision's option for the image size, by architectures that have one."""


@MODELS.register_family("torchvision")
class TorchvisionModel(Wrapped):
    """Any classifier of torchvision: student=torchvision/resnet18.

    Inception and GoogLeNet come without their auxiliary classifiers.

    Args:
        model: The model's name in `torchvision.models.list_models`.
        num_classes: Width of the logits; with `weights`, the last layer is new where they have other classes.
        in_channels: Channels of the images; other than 3, they get the mean of the first convolution's weights over the
            three channels, scaled so that grey images give the same output.
        weights: Name of pretrained weights (DEFAULT, IMAGENET1K_V1, ...), which torchvision downloads; else untrained.
        features: As in `graphkd.wrap`.
        embedding: As in `graphkd.wrap`.
        image_size: Height and width of the images, for transformers, which take one size only (224 by default).

    Raises:
        UserError: The model or its weights do not exist, the options do not fit it, or as in `graphkd.wrap`.
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
        module = _build(model, num_classes, weights, image_size)
        if in_channels != 3:
            _replace_first_convolution(module, in_channels)
        super().__init__(module, features, embedding, num_classes, example)


def _build(name: str, num_classes: int, weights: str | None, image_size: int | None) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    what = f"torchvision model '{name}'"
    check(name in names, f"there is no {what}{did_you_mean(name, names)} (torchvision.models.list_models has all)")
    known = models.get_model_weights(name).__members__
    if weights is not None:
        one_of(weights, known, f"{what} has no weights")
    options: dict[str, Any] = {"num_classes": num_classes} if weights is None else {"weights": weights}
    if image_size is not None:
        option = _SIZE_OPTIONS.get(name.partition("_")[0])
        check(option is not None, f"{what} takes images of many sizes; it has no option 'image_size'")
        options |= {"image_size": image_size} if option == "image_size" else {"input_size": (image_size, image_size)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a new initialisation of Inception
            module: nn.Module = models.get_model(name, **options)
    except Exception as error:  # a download may fail in many ways
        raise UserError(f"{what} cannot be built: {one_line(error)}") from error
    # Without auxiliary classifiers; torchvision does not take their option aux_logits together with weights.
    if isinstance(getattr(module, "aux_logits", None), bool):
        module.aux_logits = False  # type: ignore[assignment]
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(module, name):
                setattr(module, name, None)
    return module


def _replace_first_convolution(module: nn.Module, in_channels: int) -> None:
    name, old = next((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
    new = copy.deepcopy(old)
    new.in_channels = in_channels
    mean = old.weight.detach().mean(1, keepdim=True)
    new.weight = nn.Parameter(mean.repeat(1, in_channels, 1, 1) * old.in_channels / in_channels)
    replace_part(module, name, new)
