"""Exported files compute what the run's network does."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import graphkd
from graphkd import MODELS, UserError
from graphkd.model import Network
from graphkd.run import parse, parse_teacher, run
from graphkd.run.export import METADATA, describe, export
from graphkd.run.finished import FinishedRun

Config = Callable[..., dict[str, Any]]
with_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="graphkd[onnx] is not installed",
)


@pytest.fixture
def student(tiny_config: Config) -> FinishedRun:
    return graphkd.load(run(parse(tiny_config({"objective": {"ce": {"name": "ce"}}}))).folder)


def test_images(student: FinishedRun) -> tuple[Tensor, Tensor]:
    """The test split as the network takes it, and as pixels."""
    images = torch.cat([batch.images for batch in student.dataset.eval_batches("test", 999, "cpu")])
    scale, shift = student.preprocessing.normalisation
    return images, ((images - shift) / scale).round().to(torch.uint8)


test_images.__test__ = False  # type: ignore[attr-defined]


def logits(student: FinishedRun) -> Tensor:
    with torch.inference_mode():
        output: Tensor = student.student(test_images(student)[0]).logits
    return output


def logits_by_card(card: str, run: FinishedRun, folder: Path) -> Tensor:
    """What the card's code for safetensors computes."""
    (code,) = [part for part in card.split("```") if "load_file" in part]
    place: dict[str, Any] = {"images": test_images(run)[0]}
    with torch.inference_mode():
        exec(code.removeprefix("python\n").replace("model.safetensors", str(folder / "model.safetensors")), place)
    found: Tensor = place["logits"]
    return found


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_come_back_with_what_describes_them(student: FinishedRun, tmp_path: Path, name: str) -> None:
    done = export(student, tmp_path / name)
    assert (done.images, done.same, done.difference, done.notes) == (359, 359, 0, ())
    if name.endswith("safetensors"):
        with safe_open(tmp_path / name, framework="pt") as file:
            description = json.loads(file.metadata()["graphkd"])
        state = load_file(tmp_path / name)
    else:
        description = json.loads((tmp_path / "w.json").read_text())
        state = torch.load(tmp_path / name, weights_only=True)
    assert set(done.files) == set(tmp_path.glob("w.*"))
    assert description == describe(student)
    assert description["class_names"] == list("0123456789")
    assert (description["image_size"], description["mean"]) == (8, [0.305])
    again: Network = MODELS.build(
        num_classes=len(description["class_names"]), in_channels=description["in_channels"], **description["model"]
    )
    again.load_state_dict(state)
    with torch.inference_mode():
        assert torch.equal(again.eval()(test_images(student)[0]).logits, logits(student))
    export(student, tmp_path / "again" / name)
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_tensor_of_two_names_is_written_under_both(student: FinishedRun, tmp_path: Path) -> None:
    student.student.add_module("again", student.student.get_submodule("fc"))
    export(student, tmp_path / "w.safetensors")
    state = load_file(tmp_path / "w.safetensors")
    assert torch.equal(state["again.weight"], state["fc.weight"])


@pytest.mark.parametrize("preprocessing", [False, True])
def test_torchscript_takes_images_as_it_says(student: FinishedRun, tmp_path: Path, preprocessing: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = export(student, tmp_path / "s.ts", preprocessing=preprocessing)
    assert (done.same, done.images) == (359, 359)
    extra = {METADATA: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(tmp_path / "s.ts"), _extra_files=extra)  # type: ignore[no-untyped-call]
    assert json.loads(extra[METADATA])["input"].startswith("images, uint8 [" if preprocessing else "images, float32 [")
    images = test_images(student)[preprocessing]
    for count in (1, 7):
        torch.testing.assert_close(module(images[:count]), logits(student)[:count])
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "s.ts").read_bytes()


@with_onnx
def test_onnx_takes_pixels_and_says_what_they_are(student: FinishedRun, tmp_path: Path) -> None:
    import onnxruntime

    done = export(student, tmp_path / "s.onnx", preprocessing=True)
    assert (done.same, done.images) == (359, 359)
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert metadata["resizing"] == student.preprocessing.resizing
    assert (metadata["image_size"], metadata["input"]) == ("8", "images, uint8 [B, 1, 8, 8]")
    pixels = test_images(student)[1]
    for count in (1, 7):
        (found,) = session.run(None, {"images": pixels[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), logits(student)[:count], rtol=1e-4, atol=1e-4)
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "s.onnx").read_bytes()


def test_a_folder_has_a_card_for_the_hub(student: FinishedRun, tmp_path: Path) -> None:
    done = export(student, tmp_path / "hub", ["safetensors", "torchscript"])
    names = ["README.md", "config.json", "model.safetensors", "model.ts"]
    assert (
        sorted(path.name for path in done.files) == names == sorted(path.name for path in (tmp_path / "hub").iterdir())
    )
    assert json.loads((tmp_path / "hub" / "config.json").read_text()) == describe(student)
    card = (tmp_path / "hub" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    header = yaml.safe_load(front)
    assert (header["license"], header["pipeline_tag"]) == ("unknown", "image-classification")
    (index,) = header["model-index"]
    assert index["results"][0]["metrics"][0]["value"] == student.record.metrics.test_top1_last
    assert f"{student.record.metrics.test_top1_last:.2f} |" in body
    assert "epochs: 1" in body
    assert "prepared for it: the central square, resized to 8 x 8 (bilinear, antialiased);" in body
    assert student.record.identity[:12] in body
    assert torch.equal(logits_by_card(body, student, tmp_path / "hub"), logits(student))


def test_a_distilled_student_names_its_teacher(tiny_config: Config, tmp_path: Path) -> None:
    distilled = graphkd.load(run(parse(tiny_config())).folder)
    assert export(distilled, tmp_path / "hub").files[0] == tmp_path / "hub" / "model.safetensors"
    card = (tmp_path / "hub" / "README.md").read_text()
    for told in (
        "distilled with graphkd from a teacher (resnet8).",
        "knowledge-distillation",
        "teacher's test top-1",
        "agreement with teacher",
        "hkd:",
        "builder:",
        "gnn:",
    ):
        assert told in card, told
    assert str(tmp_path) not in card, "no path of this machine"


def test_a_teacher_with_its_own_input_is_exported(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config()
    config["teacher"]["input"] = {"size": 10, "mean": [0.5], "std": [0.25]}
    teacher = graphkd.load(run(parse_teacher(config)).folder)
    done = export(teacher, tmp_path / "t.ts", preprocessing=True)
    assert done.same == done.images
    assert describe(teacher)["model"]["input"]["size"] == 10
    export(teacher, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert torch.equal(logits_by_card(card, teacher, tmp_path / "hub"), logits(teacher))


def test_without_its_data_noise_is_compared(
    student: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise UserError("they have moved")

    object.__setattr__(student, "_build", gone)
    done = export(student, tmp_path / "s.ts", preprocessing=True)
    assert (done.images, done.same) == (64, 64)
    assert done.notes == ("checked on 64 random images, because the run's data cannot be read: they have moved",)


def test_a_file_that_computes_something_else_is_not_written(student: FinishedRun, tmp_path: Path) -> None:
    class Fickle(Network):
        """Gives the state dict of other weights than it computes with."""

        def __init__(self) -> None:
            super().__init__()
            self.network, self.bias = student.student, nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> graphkd.NetworkOutput:
            output: graphkd.NetworkOutput = self.network(images)
            shift = torch.randn(1, 10) if torch._C._get_tracing_state() else torch.zeros(1)
            return output._replace(logits=output.logits + self.bias * shift)

    object.__setattr__(student, "student", Fickle())
    with pytest.raises(
        UserError, match=r"torchscript: the exported network's logits differ from the run's by .*; nothing was written"
    ):
        export(student, tmp_path / "below" / "s.ts")
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("s.txt", {}, r"the ending '\.txt' is unknown \(choices: \.onnx, .*, or none for a folder\)"),
        ("s.pt", {}, "may be one of several formats; say --torchscript or --state-dict"),
        ("s.pth", {"formats": ["torchscript"]}, r"files of torchscript end in \.ts or \.torchscript or \.pt"),
        ("s.ts", {"formats": ["torchscript", "onnx"]}, "is one file, but 2 formats are asked for"),
        ("s", {"formats": ["tf"]}, "there is no format 'tf'"),
        ("s.pth", {"preprocessing": True}, "state-dict hold weights alone; only onnx and torchscript"),
        ("old.ts", {}, r"old\.ts exists already; --force overwrites it"),
        ("old", {}, r"README\.md exists already; --force overwrites it"),
    ],
)
def test_what_cannot_be_written_is_told(
    student: FinishedRun, tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "old").mkdir()
    for name in ("old.ts", "old/README.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=message):
        export(student, tmp_path / out, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "old.ts", "results"}
    assert [path.read_text() for path in (tmp_path / "old").iterdir()] == ["mine"]


def test_files_are_overwritten_when_asked_to(student: FinishedRun, tmp_path: Path) -> None:
    for _ in range(2):
        assert export(student, tmp_path / "s.pt", ["state-dict"], force=True).same == 359
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "s.json", "s.pt"]


def test_without_onnx_the_fix_is_named(student: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnxscript: python -m pip install onnx onnxruntime onnxscript$"):
        export(student, tmp_path / "s.onnx")
