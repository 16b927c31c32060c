"""CIFAR-10."""

from __future__ import annotations

from graphkd.binding import flat
from graphkd.data.archive import RGB
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.cifar import Cifar
from graphkd.data.download import Archive
from graphkd.data.options import SplitOptions


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

    @flat
    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        split: SplitOptions = SplitOptions(),  # noqa: B008 (immutable)
        augmentation: Augmentation = CROP_AND_FLIP,
        mean: RGB = (0.4914, 0.4822, 0.4465),
        std: RGB = (0.2470, 0.2435, 0.2616),
    ) -> None:
        super().__init__(root, image_size, split, augmentation, mean, std)
