"""CIFAR-10."""

from __future__ import annotations

from graphkd.data.base import DATASETS
from graphkd.data.cifar import Cifar
from graphkd.data.download import Archive


@DATASETS.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10: 60,000 colour images of 32x32 pixels in ten classes (Krizhevsky, 2009); options as in `Cifar`."""

    ARCHIVE = Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-binary.tar.gz",
    )
    FOLDER = "cifar-10-batches-bin"
    TRAIN = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
    TEST = "test_batch.bin"
    CLASS_NAMES = "batches.meta.txt"
    LABEL_BYTES = 1

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
        mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616),
    ) -> None:
        super().__init__(
            root, train_fraction, val_fraction, split_seed, padding, flip, cutout, rand_augment, rand_magnitude,
            mean, std,
        )  # fmt: skip
