"""`graphkd export`: a run's network for use elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from graphkd.errors import check
from graphkd_cli.arguments import CommandParser

HELP = """\
usage: graphkd export RUN --out FILE|FOLDER [--onnx] [--torchscript] [--safetensors] [--state-dict]
                      [--with-preprocessing] [--force]

Writes the network of a finished run (a student's or a teacher's folder) for use elsewhere. Before it is written, each
file is checked to give the run's predictions on its test split.

  --out FILE            student.onnx, .ts (TorchScript), .safetensors or .pth (a state dict, and student.json beside it)
  --out FOLDER          a name without an ending: model files, config.json, and a model card for the Hugging Face hub
                        (README.md, to be completed); safetensors unless formats are named
  --with-preprocessing  for ONNX and TorchScript: the network takes uint8 images [B, C, size, size] and normalises them
                        itself; otherwise it takes float32 images: (pixel / 255 - mean) / std
  --force               overwrite files

Class names, input size and normalisation are in each file's metadata.
ONNX needs: python -m pip install onnx onnxruntime onnxscript

  graphkd export results/.../seed-0 --out student.onnx --with-preprocessing
  graphkd export results/.../seed-0 --onnx --safetensors --out my-student
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("export", has_configs=False)
    parser.add_argument("run", nargs="?")
    for name in ("onnx", "torchscript", "safetensors", "state-dict"):
        parser.add_argument(f"--{name}", dest="formats", action="append_const", const=name)
    parser.add_argument("--out")
    parser.add_argument("--with-preprocessing", action="store_true")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_intermixed_args(list(arguments))
    check(bool(options.run), "export: which run? (see graphkd export --help)")
    check(bool(options.out), "export: where to? --out FILE or --out FOLDER (see graphkd export --help)")

    from graphkd.run.export import export
    from graphkd.run.finished import load
    from graphkd_cli.printing import console, print_line

    done = export(load(options.run), options.out, options.formats or (), options.with_preprocessing, options.force)
    screen = console()
    for note in done.notes:
        print_line(screen, note)
    print_line(
        screen,
        f"checked on {done.images} images: {done.same} predictions are the same, logits differ by at most "
        f"{done.difference:.1e}",
    )
    for file in done.files:
        print_line(screen, f"wrote {file}")
    return 0
