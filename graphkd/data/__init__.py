"""Data sets by name, with augmentation in batches.

A new data set is a file here with a class registered in `DATASETS`, and `configs/data/NAME.yaml` with its options.
Its base class is `TensorDataset` where the samples are in memory, `DecodedDataset` where they are decoded first,
`ArchiveDataset` where they are downloaded too, or `Dataset` itself. Where test images are not the resized central
square of files, `test_transform` says what they are, for predictions. Options that several data sets share are in
`options.py` and `augment.py`; `digits.py` and `cifar10.py` are short examples.
"""

from __future__ import annotations

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS, Batch, Dataset, DatasetInfo
from graphkd.data.download import download_progress
from graphkd.data.tensor import Split, TensorDataset, stratified_split, stratified_subset

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batch",
    "Dataset",
    "DatasetInfo",
    "Split",
    "TensorDataset",
    "download_progress",
    "stratified_split",
    "stratified_subset",
]
