"""Where `torch.compile` keeps the code that it makes."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from multiprocessing.util import Finalize


@functools.cache
def private_compile_cache() -> str:
    """Give this process a compile cache of its own, which is removed at its end.

    The compiler writes its libraries in place, and a file that exists is taken for complete: in a cache that processes
    share, one that is killed while it compiles leaves a cut library, on which every later one fails. The caches in
    memory refer to these files, so the folder serves all trainings of the process.

    Returns:
        The folder, below TORCHINDUCTOR_CACHE_DIR or else below the system's folder for temporary files. It becomes the
        new TORCHINDUCTOR_CACHE_DIR, where torch and Triton look.
    """
    parent = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="graphkd-compiled-", dir=parent)
    # Unlike atexit, it is run in the children of multiprocessing too.
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    return folder
