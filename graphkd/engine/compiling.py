"""The cache of `torch.compile`."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from multiprocessing.util import Finalize


@functools.cache
def private_compile_cache() -> str:
    """Give this process its own compile cache, which is removed when the process ends.

    The compiler writes libraries in place and takes every existing file for complete. So in a shared cache, a process
    that is killed while compiling leaves a truncated library, on which all later processes fail. In-memory caches refer
    to these files, so all trainings of the process share one folder.

    Returns:
        The folder, below TORCHINDUCTOR_CACHE_DIR or else the system's temporary folder. It becomes the new
        TORCHINDUCTOR_CACHE_DIR, where torch and Triton look.
    """
    parent = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="graphkd-compiled-", dir=parent)
    # Unlike atexit, this runs in children of multiprocessing too.
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    return folder
