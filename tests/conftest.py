"""What all tests share: one thread, the same examples in every run, and no GPU test without a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("graphkd", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("graphkd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
