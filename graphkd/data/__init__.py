"""Data sets by name, with augmentation in batches."""

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
