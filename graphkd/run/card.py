"""The model card of an exported network, in the layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from graphkd.report.markup import Block, markdown_block
from graphkd.report.metrics import METRICS, value_of
from graphkd.run.finished import FinishedRun

_SHOWN = ("test_top1_last", "test_top5_last", "test_nll_last", "agreement_last")
_MOST_CLASSES = 20
_PROTOCOL = (
    "epochs", "batch_size", "samples_per_class", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule",
    "decay_at", "decay", "ema",
)  # fmt: skip
"""Options of the trainer that a reader wants to know."""
_LEAD = {
    True: "A student ({model}), distilled with graphkd from a teacher ({teacher}).",
    False: "A classifier ({model}), trained on labels alone with graphkd.",
}
_USE = {
    ".onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"images": images}})  # images: np.ndarray, {input}""",
    ".ts": """\
import torch

network = torch.jit.load("{file}")
logits = network(images)  # images: torch.Tensor, {input}""",
    ".safetensors": """\
{imports}
from safetensors.torch import load_file

{build}
network.load_state_dict(load_file("{file}"))
logits = network(images).logits  # images: torch.Tensor, {input}""",
    ".pth": """\
import torch
{imports}

{build}
network.load_state_dict(torch.load("{file}", weights_only=True))
logits = network(images).logits  # images: torch.Tensor, {input}""",
}
_TEXT = """\
---
{front}---

# {title}

{lead}

<!-- Say in a sentence what it is for, and what it is not for. -->

## Results

{results}

Figures of one seed, after the last epoch; none was chosen on the test data.

## Use

{use}

## Input and output

- {input}
- how an image is prepared for it: {resizing}; `config.json` has mean and std
- {output}
- classes: {names}

## Data

Data set `{data}`: {classes} classes, images of {channels} x {size} x {size}.

<!-- Name the data's source and licence. -->

## Training

{training}

The identity of the run is `{identity}`, its seed {seed}, made by graphkd {version}.

## Licence

<!-- Choose a licence that the data's allows, and name it in the header in place of "unknown". -->
"""


def model_card(run: FinishedRun, description: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Return the text of a model card: YAML for the hub, figures, use, data and protocol, with places to fill in.

    Args:
        run: The run.
        description: As `graphkd.run.export.describe` gives it.
        files: The model files beside the card.
    """
    record, name = run.record, str(description["model"]["name"])
    title = f"{name} on {record.data}"
    figures = {METRICS[key].label: (key, value_of(record, key)) for key in _SHOWN}
    rows = [
        (label, f"{value:.{METRICS[key].decimals}f}") for label, (key, value) in figures.items() if value is not None
    ]
    if record.teacher is not None and record.teacher.accuracy is not None:
        rows.append(("teacher's test top-1 (%)", f"{record.teacher.accuracy:.2f}"))
    names = ", ".join(run.classes[:_MOST_CLASSES])
    return _TEXT.format(
        front=yaml.safe_dump(_front_matter(run, title), sort_keys=False, allow_unicode=True),
        title=title,
        lead=_LEAD[record.teacher is not None].format(model=name, teacher=record.pair.partition("->")[0]),
        results=markdown_block(Block.of(("metric", "value"), rows)),
        use="\n\n".join(_use(file, description) for file in files),
        input=description["input"],
        output=description["output"],
        names=names if len(run.classes) <= _MOST_CLASSES else f"{names}, ... (all {len(run.classes)} in `config.json`)",
        data=record.data,
        classes=len(run.classes),
        channels=description["in_channels"],
        size=description["image_size"],
        resizing=description["resizing"],
        training=_code("yaml", yaml.safe_dump(_protocol(run), sort_keys=False, allow_unicode=True).strip()),
        identity=record.identity[:12],
        seed=record.seed,
        version=record.code.version,
    )


def _front_matter(run: FinishedRun, title: str) -> dict[str, Any]:
    record = run.record
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": record.data, "type": record.data},
        "metrics": [{"type": "accuracy", "name": "test top-1 (%)", "value": record.metrics.test_top1_last}],
    }
    return {
        "license": "unknown",
        "library_name": "graphkd",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *(["knowledge-distillation"] if record.teacher else [])],
        "datasets": [record.data],
        "metrics": ["accuracy"],
        "model-index": [{"name": title, "results": [result]}],
    }


def _protocol(run: FinishedRun) -> dict[str, Any]:
    """Return the part of the config that says how the network was trained, without paths and machines."""
    config, is_teacher = run.config, run.record.kind == "teacher"
    trainer = dict(config["teacher_trainer" if is_teacher else "trainer"])
    protocol: dict[str, Any] = {"trainer": {key: trainer[key] for key in _PROTOCOL if key in trainer}}
    if is_teacher:
        return protocol
    terms = config["objective"]
    takes_graph = any(isinstance(term, Mapping) and "builder" in term for term in terms.values())
    graph = {key: config[key] for key in ("builder", "gnn")} if takes_graph else {}
    return {"objective": terms, **graph, **protocol}


def _use(file: Path, description: Mapping[str, Any]) -> str:
    model, classes, channels = dict(description["model"]), len(description["class_names"]), description["in_channels"]
    own = model.pop("input", None)
    imports = ["from graphkd import MODELS"]
    build = [f"network = MODELS.build(num_classes={classes}, in_channels={channels}, **{model}).eval()"]
    if own is not None:
        imports.append("from graphkd.model import OwnInput, adapt_input")
        build.append(f"adapt_input(network, OwnInput(**{own}), {description['mean']}, {description['std']})")
    images = description["input"].removeprefix("images, ")
    text = _USE[file.suffix].format(file=file.name, input=images, imports="\n".join(imports), build="\n".join(build))
    return _code("python", text)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
