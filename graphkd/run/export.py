"""Files for use elsewhere of a finished run's network: ONNX, TorchScript or plain weights, and a model card."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from graphkd.data.tensor import Normalisation
from graphkd.engine.weights import load_weights, plain_state
from graphkd.errors import UserError, check, one_line
from graphkd.files import folder_if_used, write_atomically
from graphkd.model import Network
from graphkd.run.card import model_card
from graphkd.run.finished import FinishedRun

FORMATS = {
    "onnx": (".onnx",),
    "torchscript": (".ts", ".torchscript", ".pt"),
    "safetensors": (".safetensors",),
    "state-dict": (".pth", ".pt"),
}
"""The endings of each format's files, the usual one first."""
WITH_CODE = ("onnx", "torchscript")
"""Formats that hold the computation and not only the weights."""
CONFIG, CARD = "config.json", "README.md"
METADATA = "graphkd.json"
"""Name of the description within a TorchScript file."""
_ONNX = ("onnx", "onnxruntime", "onnxscript")
_TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit: other programs add in another order."""
_RANDOM_IMAGES, _BATCH = 64, 256
_NOT_MODEL = ("checkpoint", "drop_head", "weights", "seed", "train_fraction")
"""Keys of a network's config node that are not constructor arguments."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        files: The files.
        images: How many images each model file was checked on.
        same: For how many images the prediction equals that of the run's network, in the file with the fewest such
            images.
        difference: The largest difference of a logit.
        notes: What the user should know, a line each.
    """

    files: tuple[Path, ...]
    images: int
    same: int
    difference: float
    notes: tuple[str, ...] = ()


class _Logits(nn.Module):
    """A network that returns logits alone, of uint8 images where it has a normalisation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, normalisation: Normalisation | None) -> None:
        super().__init__()
        self.network, self.normalises = network, normalisation is not None
        if normalisation is not None:
            self.register_buffer("scale", normalisation.scale)
            self.register_buffer("shift", normalisation.shift)

    def forward(self, images: Tensor) -> Tensor:
        if self.normalises:
            images = images.float() * self.scale + self.shift
        logits: Tensor = self.network(images).logits
        return logits


def export(
    run: FinishedRun,
    out: str | Path,
    formats: Sequence[str] = (),
    preprocessing: bool = False,
    force: bool = False,
) -> Exported:
    """Write the network of a finished run for use elsewhere, and check each file on the run's test split.

    `out` is a file (`student.onnx`), or a folder: a name without an ending. A folder gets a file of each format, a
    description (`config.json`) and a model card in the layout of the Hugging Face hub (`README.md`). Class names, input
    size and normalisation are also in the metadata of a file (as JSON under `graphkd`, in a TorchScript file
    `graphkd.json`), and beside a state dict. Files appear whole or not at all, and only once they are checked.

    Args:
        run: The run.
        out: Where to write.
        formats: Of `FORMATS`. By default what the file's ending says, or safetensors for a folder.
        preprocessing: Whether the network takes uint8 images [B, C, size, size] and normalises them itself, in ONNX
            and TorchScript.
        force: Whether to overwrite files.

    Raises:
        UserError: A format is unknown, does not fit the ending, or cannot be written; a file exists; or a file does not
            compute what the network does.
    """
    named = _files(Path(out), formats, is_folder=str(out).endswith(("/", "\\")))
    if preprocessing:
        plain = [name for name in named if name not in WITH_CODE]
        check(not plain, f"{', '.join(plain)} hold weights alone; only {' and '.join(WITH_CODE)} take preprocessing in")
    if "onnx" in named:
        _check_onnx()
    whole_folder = Path(out) not in named.values()
    beside = [Path(out) / CONFIG, Path(out) / CARD] if whole_folder else []
    beside += [path.with_suffix(".json") for name, path in named.items() if name == "state-dict" and not whole_folder]
    for path in (*named.values(), *beside):
        check(not path.is_dir(), f"{path} is a folder")
        check(force or not path.exists(), f"{path} exists already; --force overwrites it")
    normalisation = run.preprocessing.normalisation if preprocessing else None
    module = _Logits(copy.deepcopy(run.student).cpu(), normalisation).eval()
    description = describe(run, preprocessing)
    with folder_if_used(next(iter(named.values())).parent), torch.inference_mode():
        written = {name: _WRITERS[name](module, description, _noise(run, normalisation, 1)) for name in named}
        batches, notes = _test_images(run, normalisation)
        images, same, difference = _compare(module, {name: compute for name, (_, compute) in written.items()}, batches)
        contents: dict[Path, bytes | str] = {path: written[name][0] for name, path in named.items()}
        for path in beside:
            is_card = path.name == CARD
            contents[path] = model_card(run, description, list(named.values())) if is_card else _json(description)
        for path, content in contents.items():
            write_atomically(path, content)
    return Exported(tuple(contents), images, same, difference, notes)


def describe(run: FinishedRun, preprocessing: bool = False) -> dict[str, Any]:
    """Return what a user of the network has to know, as JSON values."""
    info, record = run.info, run.record
    node = run.config[record.kind]
    model = {"name": node} if isinstance(node, str) else dict(node)
    kept = {key: value for key, value in model.items() if key not in _NOT_MODEL}
    size = info.image_size
    shape = f"[B, {info.in_channels}, {size}, {size}]"
    return {
        "model": {key: value for key, value in kept.items() if key != "input" or value is not None},
        "class_names": list(info.class_names),
        "in_channels": info.in_channels,
        "image_size": size,
        "resizing": run.preprocessing.resizing,
        "mean": None if info.mean is None else list(info.mean),
        "std": None if info.std is None else list(info.std),
        "input": f"images, uint8 {shape}" if preprocessing else f"images, float32 {shape}: (pixel / 255 - mean) / std",
        "output": f"logits, float32 [B, {info.num_classes}]",
        "identity": record.identity,
        "seed": record.seed,
        "graphkd": version("graphkd"),
    }


def _files(out: Path, formats: Sequence[str], is_folder: bool) -> dict[str, Path]:
    """Return the model files to write, by format."""
    for name in formats:
        check(name in FORMATS, f"there is no format '{name}' (choices: {', '.join(FORMATS)})")
    if is_folder or out.is_dir() or not out.suffix:
        return {name: out / f"model{FORMATS[name][0]}" for name in formats or ["safetensors"]}
    fitting = [name for name, endings in FORMATS.items() if out.suffix in endings]
    known = sorted({ending for endings in FORMATS.values() for ending in endings})
    check(
        len(fitting) > 0,
        f"{out}: the ending '{out.suffix}' is unknown (choices: {', '.join(known)}, or none for a folder)",
    )
    check(len(formats) <= 1, f"{out} is one file, but {len(formats)} formats are asked for; a folder takes several")
    chosen = formats[0] if formats else fitting[0]
    check(chosen in fitting, f"{out}: files of {chosen} end in {' or '.join(FORMATS[chosen])}")
    told = " or ".join(f"--{name}" for name in fitting)
    check(bool(formats) or len(fitting) == 1, f"{out} may be one of several formats; say {told}")
    return {chosen: out}


def _test_images(run: FinishedRun, normalisation: Normalisation | None) -> tuple[Iterable[Tensor], tuple[str, ...]]:
    """Return the test split in batches as the exported network takes it, or noise where the data are gone."""
    try:
        batches = run.dataset.eval_batches("test", _BATCH, "cpu")
    except UserError as error:
        note = f"checked on {_RANDOM_IMAGES} random images, because the run's data cannot be read: {error}"
        return [_noise(run, normalisation, _RANDOM_IMAGES)], (note,)
    if normalisation is None:
        return (batch.images for batch in batches), ()
    return (normalisation.pixels(batch.images) for batch in batches), ()


def _noise(run: FinishedRun, normalisation: Normalisation | None, count: int) -> Tensor:
    """Return random images: pixels where the exported network normalises them, else normalised."""
    shape = (count, run.info.in_channels, run.info.image_size, run.info.image_size)
    generator = torch.Generator().manual_seed(0)
    if normalisation is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _compare(
    module: _Logits, files: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterable[Tensor]
) -> tuple[int, int, float]:
    """Run the network and exported files on images.

    Returns:
        The number of images, for how many of them the file that does worst predicts the same, and the largest
        difference of a logit.

    Raises:
        UserError: The logits of a file differ by more than rounding.
    """
    images, same, worst = 0, dict.fromkeys(files, 0), 0.0
    for batch in batches:
        expected = module(batch)
        images += len(batch)
        for name, compute in files.items():
            found = compute(batch)
            difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
            close = torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * max(1.0, largest), equal_nan=True)
            check(
                close,
                f"{name}: the exported network's logits differ from the run's by {difference:.3g}; nothing was written",
            )
            same[name] += int((found.argmax(1) == expected.argmax(1)).sum())
            worst = max(worst, difference)
    return images, min(same.values()), worst


Written = tuple[bytes, Callable[[Tensor], Tensor]]
"""A file's content, and what computes the logits of images from that content."""


def _write_safetensors(module: _Logits, description: Mapping[str, Any], example: Tensor) -> Written:
    content = safetensors.torch.save(plain_state(module.network), {"graphkd": json.dumps(description)})
    return content, _refilled(module, content, ".safetensors")


def _write_state_dict(module: _Logits, description: Mapping[str, Any], example: Tensor) -> Written:
    file = io.BytesIO()
    torch.save(plain_state(module.network), file)
    return file.getvalue(), _refilled(module, file.getvalue(), ".pth")


def _refilled(module: _Logits, content: bytes, suffix: str) -> Callable[[Tensor], Tensor]:
    """Return a copy of the network with the weights of a file."""
    again = copy.deepcopy(module)
    for tensor in again.network.state_dict().values():
        tensor.zero_()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"weights{suffix}")
        path.write_bytes(content)
        load_weights(again.network, path)
    return again


def _write_torchscript(module: _Logits, description: Mapping[str, Any], example: Tensor) -> Written:
    file = io.BytesIO()
    with _quiet():
        traced = torch.jit.trace(module, example)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, file, _extra_files={METADATA: _json(description)})
        content = _without_sources(file)
        again: Callable[[Tensor], Tensor] = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return content, again


def _without_sources(file: io.BytesIO) -> bytes:
    """Return a TorchScript file without the paths of this machine's source files."""
    kept = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))
    return kept.getvalue()


def _write_onnx(module: _Logits, description: Mapping[str, Any], example: Tensor) -> Written:
    import onnxruntime

    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                module, (example.repeat(2, 1, 1, 1),), dynamo=True, verbose=False,
                input_names=["images"], output_names=["logits"], dynamic_shapes=({0: batch},),
            )  # fmt: skip
        except Exception as error:  # of networks from anywhere
            raise UserError(f"onnx: the network cannot be exported: {one_line(error)}") from error
        assert program is not None
        model = program.model_proto
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]  # traces of this machine's source files
    del model.metadata_props[:]
    for key, value in description.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


_WRITERS: dict[str, Callable[[_Logits, Mapping[str, Any], Tensor], Written]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "safetensors": _write_safetensors,
    "state-dict": _write_state_dict,
}


def _check_onnx() -> None:
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    check(not missing, f"ONNX needs {', '.join(missing)}: python -m pip install {' '.join(_ONNX)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch says of its exporters to its developers off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _json(description: Mapping[str, Any]) -> str:
    return json.dumps(description, ensure_ascii=False, indent=2) + "\n"
