"""Feature banks, negative samplers, and exact contrastive losses over them."""

from graphkd.contrast.bank import Bank, FullBank, QueueBank
from graphkd.contrast.infonce import info_nce, mean_negative_similarity, nce, nce_log_normalizer
from graphkd.contrast.sampler import AllSampler, ExplicitSampler, Sampler, SharedSampler, build_sampler
from graphkd.contrast.selection import ExplicitSelection, Selection
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
    "build_sampler",
    "info_nce",
    "mean_negative_similarity",
    "nce",
    "nce_log_normalizer",
]
