"""CIFAR-100, the data of the distillation benchmark."""

from __future__ import annotations

from graphkd.data.base import DATASETS
from graphkd.data.cifar import Cifar
from graphkd.data.download import Archive


@DATASETS.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100: 60,000 colour images of 32x32 pixels in 100 classes (Krizhevsky, 2009); options as in `Cifar`."""

    ARCHIVE = Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary.tar.gz",
    )
    FOLDER = "cifar-100-binary"
    TRAIN = ("train.bin",)
    TEST = "test.bin"
    CLASS_NAMES = "fine_label_names.txt"
    LABEL_BYTES = 2

    def __init__(
        self,
        root: str = "data",
        train_fraction: float = 1.0,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: int = 0,
        rand_magnitude: int = 9,
        mean: tuple[float, float, float] = (0.5071, 0.4867, 0.4408),
        std: tuple[float, float, float] = (0.2675, 0.2565, 0.2761),
    ) -> None:
        super().__init__(
            root, train_fraction, val_fraction, split_seed, padding, flip, cutout, rand_augment, rand_magnitude,
            mean, std,
        )  # fmt: skip
