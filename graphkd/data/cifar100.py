"""CIFAR-100, the data of the distillation benchmark."""

from __future__ import annotations

from graphkd.binding import flat
from graphkd.data.archive import RGB
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.cifar import Cifar
from graphkd.data.download import Archive
from graphkd.data.options import SplitOptions


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

    @flat
    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        split: SplitOptions = SplitOptions(),  # noqa: B008 (immutable)
        augmentation: Augmentation = CROP_AND_FLIP,
        mean: RGB = (0.5071, 0.4867, 0.4408),
        std: RGB = (0.2675, 0.2565, 0.2761),
    ) -> None:
        super().__init__(root, image_size, split, augmentation, mean, std)
