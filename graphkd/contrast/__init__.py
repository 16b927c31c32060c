"""Contrast of embeddings with a bank: feature banks, negative samplers and the exact losses over them."""

from graphkd.contrast.bank import Bank, FullBank, QueueBank, build_bank
from graphkd.contrast.infonce import info_nce, nce, nce_log_normalizer
from graphkd.contrast.negatives import (
    AllSampler,
    ExplicitSampler,
    ExplicitSelection,
    Sampler,
    Selection,
    SharedSampler,
    build_sampler,
)
from graphkd.contrast.view import BankView

__all__ = [
    "AllSampler",
    "Bank",
    "BankView",
    "ExplicitSampler",
    "ExplicitSelection",
    "FullBank",
    "QueueBank",
    "Sampler",
    "Selection",
    "SharedSampler",
    "build_bank",
    "build_sampler",
    "info_nce",
    "nce",
    "nce_log_normalizer",
]
