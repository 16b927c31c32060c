"""What `torch.compile` and maps channels last do to a training, each in a process that may crash or be killed alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from graphkd.engine.convolutions import sound_convolutions

TRAIN = """
import sys
from pathlib import Path
import torch
from torch import nn
from graphkd import DATASETS, MODELS, OBJECTIVES, NetworkOutput, Trainer, WeightedSum
from graphkd.engine.compiling import private_compile_cache
from graphkd.engine.seeding import initialising
from graphkd.model import Network

digits = DATASETS.build("digits", train_fraction=0.1)

class Small(Network):
    # The least that is compiled fast: with a shortcut as in resnet8, which takes in two channels.
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
        self.shortcut = nn.Conv2d(2, 4, 1, stride=2)
        self.fc = nn.Linear(4, 10)

    def forward(self, images):
        stem = self.stem(images)
        maps = self.shortcut(stem).relu()
        embedding = maps.mean((2, 3))
        return NetworkOutput(self.fc(embedding), [stem, maps], embedding)

def trained(threads, **options):
    with initialising(0, "student_init"):
        network = Small() if "compile" in sys.argv else MODELS.build(
            "resnet8", num_classes=10, in_channels=1, widths=(2, 2, 4, 4)
        )
    objective = WeightedSum({"ce": (OBJECTIVES.build("ce"), 1.0)})
    trainer = Trainer(epochs=1, batch_size=109, threads=threads, accelerator="cpu", lr=1.0, **options)
    trainer.fit(network, objective, digits)
    return network.state_dict()

for threads in map(int, sys.argv[2:]):
    plain, other = trained(threads), trained(threads, **{sys.argv[1]: True})
    assert plain.keys() == other.keys()
    assert max(float((plain[name] - other[name]).abs().max()) for name in plain) < 1e-3
if "compile" in sys.argv:
    assert list(Path(private_compile_cache()).rglob("*.so")), "compiled, and there"
"""


def run(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", **variables}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    if "InvalidCxxCompiler" in done.stderr:
        pytest.skip("torch.compile does not run here: there is no compiler")
    return done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiling_changes_no_name(tmp_path: Path) -> None:
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    # Without vector instructions, whose headers take most of the compiler's time.
    done = run(TRAIN, "compile", "1", TORCHINDUCTOR_VEC_ISA_OK="0", ONEDNN_MAX_CPU_ISA="AVX2", **cache)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").iterdir()) == [], "what was compiled is removed with its process"


def test_channels_last_is_right_with_avx2() -> None:
    """OneDNN's own gradient is wrong there, or ends the process: this network's shortcut takes in two channels."""
    done = run(TRAIN, "channels_last", "1", "2", ONEDNN_MAX_CPU_ISA="AVX2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("layer", "own"), [
    (nn.Conv2d(4, 8, 1, stride=2), True),
    (nn.Conv2d(16, 8, 1, stride=(1, 2), groups=4), True),
    (nn.Conv2d(8, 8, 1, stride=2), False),
    (nn.Conv2d(4, 8, 1), False),
    (nn.Conv2d(4, 8, 3, stride=2), False),
])  # fmt: skip
def test_onednn_is_left_out_only_where_it_is_wrong(layer: nn.Conv2d, own: bool) -> None:
    with sound_convolutions(nn.Sequential(nn.ReLU(), layer)):
        assert torch._C._get_mkldnn_enabled() is not own
    assert torch._C._get_mkldnn_enabled()


def test_processes_compile_into_folders_of_their_own(tmp_path: Path) -> None:
    """Also beside what one left half-written that was killed while it compiled."""
    code = """
import multiprocessing, os, signal
from pathlib import Path
from graphkd.engine.compiling import private_compile_cache

def die():
    Path(private_compile_cache(), "half.so").write_bytes(b"\\x7fELF")
    os.kill(os.getpid(), signal.SIGKILL)

def show():
    print(private_compile_cache(), os.environ["TORCHINDUCTOR_CACHE_DIR"], os.listdir(private_compile_cache()))

for target in (die, show):
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
show()
"""
    done = run(code, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({folder for folder, _, _ in lines}) == 2
    assert all(folder == variable and held == "[]" for folder, variable, held in lines)
    assert all(Path(folder).parent == tmp_path / "cache" for folder, _, _ in lines)
    (left,) = (tmp_path / "cache").iterdir()
    assert (left / "half.so").exists(), "other processes remove their folders, a child of multiprocessing too"
    assert left not in [Path(folder) for folder, _, _ in lines]
