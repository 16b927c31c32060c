"""`graphkd predict`: classes of images by a finished run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphkd.errors import check, counted
from graphkd.files import folder_if_used, write_atomically
from graphkd.report.markup import FORMULA, Block
from graphkd_cli.arguments import CommandParser

if TYPE_CHECKING:
    from graphkd.run.predict import Predictions

HELP = """\
usage: graphkd predict RUN IMAGE|FOLDER... [--top K] [--csv FILE] [--skip-broken] [--force]

Prints the most probable classes of images, by the network of a finished run (a student's or a teacher's folder). Images
are read, resized and normalised exactly as those of the run's test split; the data themselves are not needed.

  --top K               how many classes to show (default: 3)
  --csv FILE            write them to a file instead: image, class_1, probability_1, class_2, ...
  --skip-broken         leave out images that cannot be read, and name them at the end
  --force               overwrite the file

  graphkd predict results/.../seed-0 cat.jpg photos/
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser("predict", has_configs=False)
    parser.add_argument("words", nargs="*", metavar="RUN IMAGE")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--skip-broken", action="store_true")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_intermixed_args(list(arguments))
    check(len(options.words) > 1, "predict: which run, and which images? (see graphkd predict --help)")
    check(options.top >= 1, f"predict: --top is {options.top}, but must be at least 1")
    table = options.csv
    if table is not None:
        check(not table.is_dir(), f"predict: --csv: {table} is a folder")
        check(options.force or not table.exists(), f"predict: {table} exists already; --force overwrites it")
    folder, *places = options.words

    from graphkd.data.images import find_broken
    from graphkd.run.finished import load
    from graphkd_cli.printing import console, print_block, print_line

    finished = load(folder)
    files = _images(places)
    broken = find_broken(files) if options.skip_broken else {}
    images = [file for index, file in enumerate(files) if index not in broken]
    check(len(images) > 0, f"predict: {'all images are' if len(files) > 1 else 'the image is'} broken")
    predictions = finished.predict(images)
    screen = console()
    if table is None:
        header = ["image", *(f"rank {place}" for place in range(1, 1 + min(options.top, len(finished.classes))))]
        rows = [
            (image, *(f"{name} ({100 * probability:.1f} %)" for name, probability in top))
            for image, top in zip(images, predictions.top(options.top), strict=True)
        ]
        print_block(screen, Block.of(header, rows))
    else:
        with folder_if_used(table.parent):
            write_atomically(table, _csv(images, predictions, options.top))
        print_line(screen, f"{counted(len(images), 'image')}: {table}")
    for index, reason in broken.items():
        print_line(screen, f"left out: {files[index]}: {reason}")
    return 0


def _images(places: Sequence[str]) -> list[str]:
    """Return the image files that are named or lie below a folder that is."""
    from graphkd.data.listing import list_images

    found: list[str] = []
    for place in places:
        if not Path(place).is_dir():
            check(Path(place).exists(), f"there is no image or folder {place}")
            found.append(place)
            continue
        below = list_images(Path(place))
        check(len(below) > 0, f"there is no image below {place}")
        found += below
    return found


def _csv(images: Sequence[str], predictions: Predictions, count: int) -> str:
    """Return a line for each image; a text that a spreadsheet would run begins with a quote."""
    rows = predictions.top(count)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = range(1, 1 + min(count, len(predictions.class_names)))
    writer.writerow(["image", *(f"{what}_{place}" for place in places for what in ("class", "probability"))])
    for image, top in zip(images, rows, strict=True):
        writer.writerow([_inert(image), *(cell for name, value in top for cell in (_inert(name), f"{value:.6f}"))])
    return text.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text
