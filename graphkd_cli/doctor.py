"""`graphkd doctor`: whether the installation and this machine are in order."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from graphkd.errors import UserError, check, one_line
from graphkd.machine import cores
from graphkd.report.markup import Block
from graphkd_cli.arguments import CommandParser

HELP = """\
usage: graphkd doctor [--debug]

Checks the installation and this machine in a few seconds: whether versions fit together, devices, bf16, threads,
folders and free space, and a tiny distillation. Each problem comes with its fix. Nothing is written.

Exit code: 0 if no problem was found, 1 otherwise.
"""
EXTRAS = {"timm": ("timm",), "onnx": ("onnx", "onnxruntime", "onnxscript"), "sweep": ("optuna",)}
"""What optional features need, by extra."""
REINSTALL = "make clean install, or in another environment: python -m pip install --force-reinstall . (in the checkout)"
THREADS = 2
"""Threads of a run by default (trainer.threads)."""
GIB = 2**30
LEAST_FREE = GIB


class Finding(NamedTuple):
    """What one check found, and how to mend it where it is a problem."""

    found: str
    mend: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    CommandParser("doctor", has_configs=False).parse_args(list(arguments))

    from graphkd_cli.printing import console, print_block, print_text

    rows, problems = [], 0
    for name, examine in CHECKS.items():
        for finding in _examined(examine):
            rows.append((name, finding.found, "ok" if finding.mend is None else f"fix: {finding.mend}"))
            problems += finding.mend is not None
    screen = console()
    print_block(screen, Block.of(("check", "found", "verdict"), rows), texts=[1, 2])
    many = "1 problem was found" if problems == 1 else f"{problems} problems were found"
    print_text(screen, many if problems else "No problems found.")
    return 1 if problems else 0


def _examined(examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; an error that it meets is one."""
    try:
        yield from examine()
    except Exception as error:  # of a broken installation
        yield Finding(_told(error), REINSTALL)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else one_line(error)


def _versions() -> Iterator[Finding]:
    """Check that all packages that graphkd requires are there and recent enough."""
    from packaging.requirements import Requirement

    own = f"graphkd {importlib.metadata.version('graphkd')}, Python {platform.python_version()}"
    wrong = []
    for line in importlib.metadata.requires("graphkd") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append((requirement, installed))
    if not wrong:
        yield Finding(f"{own}, all that it requires")
    for requirement, installed in wrong:
        found = f"{own} requires {requirement}, but there is {installed or 'none'}"
        yield Finding(found, f"python -m pip install '{requirement}'")


def _torch() -> Iterator[Finding]:
    """Check that torch and torchvision are made for each other."""
    from packaging.requirements import Requirement

    found = f"torch {_version('torch')}, torchvision {_version('torchvision')}"
    mend = "python -m pip install --upgrade --force-reinstall torch torchvision"
    try:
        import torch

        importlib.import_module("torchvision").ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # of binaries that do not fit
        yield Finding(f"{found}: {one_line(error)}", mend)
        return
    needed = [Requirement(line) for line in importlib.metadata.requires("torchvision") or []]
    for requirement in needed:
        if requirement.name == "torch" and not requirement.specifier.contains(torch.__version__, prereleases=True):
            yield Finding(f"{found}, which needs {requirement}", mend)
            return
    yield Finding(found)


def _dgl() -> Iterator[Finding]:
    """Check that DGL can be imported and computes what graphkd's own engine does."""
    import torch

    from graphkd.gnn import GNNS
    from graphkd.graph import BatchGraph

    found = f"dgl {_version('dgl')}"
    graph = BatchGraph.from_adjacency(torch.eye(4, dtype=torch.bool) | torch.eye(4, dtype=torch.bool).roll(1, 0))
    nodes = torch.linspace(-1, 1, 12).reshape(4, 3)
    try:
        encoder = GNNS.build("tag", in_dim=3, out_dim=3, engine="dgl")
        dense = GNNS.build("tag", in_dim=3, out_dim=3, engine="dense")
        dense.load_state_dict(encoder.state_dict())
        with torch.inference_mode():
            same = torch.allclose(encoder(graph, nodes), dense(graph, nodes), atol=1e-5)
        check(same, "it computes something else than graphkd's own engine")
    except Exception as error:  # of binaries that do not fit
        yield Finding(f"{found}: {_told(error)}", "python -m pip install --upgrade --force-reinstall 'dgl>=2.1'")
        return
    yield Finding(f"{found}, which agrees with graphkd's own engine")


def _devices() -> Iterator[Finding]:
    """Name the devices; a GPU that torch cannot use is a problem."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding(f"CUDA {torch.version.cuda}: {', '.join(names)}")
    elif shutil.which("nvidia-smi") is not None:
        built = (
            "is built without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda} cannot use it"
        )
        mend = "nvidia-smi shows the driver's CUDA version; install a torch built for that or an older one"
        yield Finding(f"there is an NVIDIA driver, but torch {built}", mend)
    else:
        yield Finding(f"CPU only ({platform.machine()})")


def _bf16() -> Iterator[Finding]:
    """Say whether bf16 is computed natively: on GPUs since compute capability 8, on CPUs with instructions for it."""
    import torch

    from graphkd.engine.trainer import has_bf16

    native = torch.cuda.get_device_capability()[0] >= 8 if torch.cuda.is_available() else has_bf16()
    yield Finding("native" if native else "emulated: keep trainer.precision=32, the default, which is faster here")


def _threads() -> Iterator[Finding]:
    """Compare the threads of a run with the cores that this process may use."""
    import psutil

    available, load = cores(), psutil.getloadavg()[0]
    busy = f"; other work is running (load {load:.1f})" if load >= available / 2 else ""
    found = f"{available} cores, {THREADS} threads a run (trainer.threads){busy}"
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if available < THREADS:
        yield Finding(found, "graphkd run trainer.threads=1 teacher_trainer.threads=1")
    elif asked.isdecimal() and int(asked) > available:
        yield Finding(f"{found}, OMP_NUM_THREADS={asked}", f"export OMP_NUM_THREADS={available}")
    else:
        yield Finding(found)


def _folders() -> Iterator[Finding]:
    """Check that the folders that commands write by default can be written in, and have room."""
    import torch

    for what, path, mend in (
        ("results", Path("results"), "graphkd run results=FOLDER"),
        ("data", Path("data"), "graphkd run data.root=FOLDER"),
        ("weights from torchvision and timm", Path(torch.hub.get_dir()), "export TORCH_HOME=FOLDER"),
    ):
        place = path.absolute()
        there = next(each for each in (place, *place.parents) if each.exists())
        free = shutil.disk_usage(there).free
        found = f"{what}: {path if path.is_absolute() else place}, {free / GIB:.1f} GiB free"
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Finding(f"{found}, cannot be written", mend)
        elif free < LEAST_FREE:
            yield Finding(found, f"{mend} (on another disk), or remove what is not needed")
        else:
            yield Finding(found)


def _extras() -> Iterator[Finding]:
    """Say which optional features are installed."""
    for extra, packages in EXTRAS.items():
        versions = [f"{name} {_version(name)}" for name in packages if _version(name)]
        if len(versions) == len(packages):
            yield Finding(", ".join(versions))
        else:
            install = f"python -m pip install -e '.[{extra}]' in the checkout"
            yield Finding(f"{extra}: not installed, and not needed unless you want it ({install})")


def _self_test() -> Iterator[Finding]:
    """Distil a tiny student on the digits; its loss must fall."""
    from graphkd import BUILDERS, DATASETS, GNNS, MODELS, OBJECTIVES, Trainer, distill
    from graphkd.engine.seeding import initialising
    from graphkd.model import output_shapes

    start = time.perf_counter()
    data = DATASETS.build("digits", train_fraction=0.3)
    with initialising(0, "student_init"):
        teacher, student = (
            MODELS.build("resnet8", num_classes=10, in_channels=1, widths=widths)
            for widths in ((4, 4, 8, 16), (2, 2, 4, 8))
        )
        dims = [output_shapes(network, 1, data.image_size).embedding for network in (student, teacher)]
        gnns = [GNNS.build("tag", in_dim=16, out_dim=16) for _ in range(2)]
        hkd = OBJECTIVES.build(
            "hkd", student_dim=dims[0], teacher_dim=dims[1], labels=data.train_labels, dim=16, negatives=64,
            builder=BUILDERS.build("knn", k=8), student_gnn=gnns[0], teacher_gnn=gnns[1],
        )  # fmt: skip
    trainer = Trainer(epochs=3, eval_every=3, threads=1)
    distill(None, teacher, data, OBJECTIVES.build("ce"), trainer=trainer)
    terms = {"ce": (OBJECTIVES.build("ce"), 1.0), "kd": (OBJECTIVES.build("kd"), 1.0), "hkd": (hkd, 1.0)}
    result = distill(teacher, student, data, terms, trainer=trainer)
    first, last = (result.history.epochs[epoch].total for epoch in (0, -1))
    found = f"a student of the digits: loss {first:.2f} to {last:.2f} in {time.perf_counter() - start:.1f} s"
    yield Finding(found, None if last < first else REINSTALL)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "torch": _torch,
    "DGL": _dgl,
    "devices": _devices,
    "bf16": _bf16,
    "threads": _threads,
    "folders": _folders,
    "extras": _extras,
    "self-test": _self_test,
}
