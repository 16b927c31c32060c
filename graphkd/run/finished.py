"""Load a finished run from its folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graphkd.binding import bind, options_of
from graphkd.data import DATASETS, Dataset, DatasetInfo
from graphkd.engine.weights import load_weights
from graphkd.errors import UserError, check, counted, one_line
from graphkd.files import write_atomically
from graphkd.model import Network, output_shapes
from graphkd.model.complexity import Complexity, complexity
from graphkd.report.record import Record
from graphkd.run.build import build_network
from graphkd.run.folder import CONFIG, WEIGHTS, done_record, read_config
from graphkd.run.parse import parse_student, parse_teacher
from graphkd.run.part import Part
from graphkd.run.predict import ImageLike, Predictions, Preprocessing, predict

INFO = "data.json"
"""File in a run's folder that describes its data, so that it can predict without them."""
_WEIGHTS = ("weights", "checkpoint", "drop_head")
"""Keys of a network's node on where its weights begin; the run's own are loaded instead."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, loaded from its folder.

    Attributes:
        record: Its record.
        config: Its resolved config.
        student: The trained student (the teacher, for a teacher's folder), in eval mode on the CPU.
        info: Class names, and channels, size and normalisation of its images.
        preprocessing: Prepares images from anywhere for the network, like those of the run's test split.
        folder: Where it was loaded from.
    """

    record: Record
    config: dict[str, Any]
    student: Network
    info: DatasetInfo
    preprocessing: Preprocessing
    folder: Path
    _build: Callable[[], Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.info.class_names

    @property
    def dataset(self) -> Dataset:
        """The run's data, or those given instead; read on first use.

        Raises:
            UserError: They have moved or cannot be read.
        """
        return self._build()

    @functools.cached_property
    def teacher(self) -> Network | None:
        """The trained teacher of a student's run, in eval mode on the CPU; None if it had none.

        It is found by its identity in the record, as the run's data, of which this is made, may have moved.

        Raises:
            UserError: Its weights are no longer there, or `teacher.checkpoint` holds others.
        """
        if self.record.teacher is None:
            return None
        config = self.config
        spec = parse_teacher({**config, "teacher": _without(config["teacher"], "weights")})  # the run's own are loaded
        place = spec.place_of(self.record.teacher.identity) / WEIGHTS["teacher"]
        # Results may have been moved as a whole.
        roots = [*self.folder.resolve().parents, Path(config["results"])]
        files = [spec.checkpoint] if spec.checkpoint else [root / place for root in roots]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise UserError(f"the run's teacher is no longer in {files[-1]}")
        same = spec.checkpoint is None or parse_teacher(config).identity == self.record.teacher.identity
        check(same, f"{file} holds another teacher than the run's")
        network = spec.network(self.info)
        load_weights(network, file)
        return network.eval()

    def predict(self, images: ImageLike | Sequence[ImageLike], batch_size: int = 256) -> Predictions:
        """Return the predictions of `student` for images that are preprocessed like those of the run's test split.

        Args:
            images: One or several: paths of image files, images of Pillow, or arrays uint8 [H, W] or [H, W, C], of any
                size; or tensors uint8 [C, size, size] of the network's input size. Arrays and tensors of four
                dimensions are batches.
            batch_size: Images at once; changes memory and speed only.

        Raises:
            UserError: An image cannot be read, or is of a wrong type or shape.
        """
        return predict(self.student, self.preprocessing, images, batch_size)


def load(run_dir: str | Path, data: Mapping[str, Any] | None = None) -> FinishedRun:
    """Load a finished run: its record, config and trained network, and its data on demand.

    Args:
        run_dir: The run's folder.
        data: Options that replace those of the run's data, for example {"root": "elsewhere"}; with a `name`, another
            data set. `mean` and `std` are the run's unless given.

    Raises:
        UserError: The folder holds no finished run, or one that this version cannot read, or an option is wrong.
    """
    folder = Path(run_dir)
    record = done_record(folder)
    is_probe = (folder / WEIGHTS["probe"]).exists()
    check(not is_probe, f"{folder} holds a linear probe, not a network; name the run of its student")
    config = read_config(folder / CONFIG)
    changed = {**config, "data": _changed(config.get("data"), data or {})}
    untrained = {**changed, **{side: _without(config.get(side), *_WEIGHTS) for side in ("student", "teacher")}}
    try:
        if record.kind == "teacher":
            teacher = parse_teacher(untrained)
            part, make = teacher.data, teacher.network
        else:
            student, part = parse_student(untrained)
            make = functools.partial(build_network, student, seed=config["seed"])
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    kept = _read_info(folder)
    build = functools.cache(functools.partial(_build, part, kept, folder))
    info = kept or build().info
    network = make(info)
    load_weights(network, folder / WEIGHTS[record.kind])
    preprocessing = Preprocessing.of(DATASETS.factory(part.name), part.bound.all, info)
    return FinishedRun(record, config, network.eval(), info, preprocessing, folder, build)


def student_complexity(run_dir: str | Path) -> Complexity:
    """Count the cost of a run's student on a network built anew from its config, without weights.

    Plug-ins that the config names are not imported; those that are loaded anyway serve.

    Raises:
        UserError: The folder lacks the config or the description of the data, or this version cannot build the network.
    """
    folder = Path(run_dir)
    config, info = read_config(folder / CONFIG), _read_info(folder)
    if info is None:
        raise UserError(f"{folder} has no {INFO}")
    student, _ = parse_student({**config, "plugins": [], "student": _without(config.get("student"), *_WEIGHTS)})
    return complexity(build_network(student, info, seed=0), info.in_channels, info.image_size)


def check_fits(finished: FinishedRun, dataset: Dataset, what: str) -> str | None:
    """Check that a run's network can be evaluated on a data set.

    Args:
        finished: The run.
        dataset: The data.
        what: Name of the run in messages.

    Returns:
        A note on the classes, in one line, or None.

    Raises:
        UserError: The channels or size of the images, or the number or order of the classes differ.
    """
    own, new = finished.info, dataset.info
    check_images(finished, dataset, what)
    check(
        own.num_classes == new.num_classes,
        f"the network in {what} has {own.num_classes} classes, but the data has {new.num_classes}",
    )
    if own.class_names == new.class_names:
        return None
    at = next(at for at in range(own.num_classes) if own.class_names[at] != new.class_names[at])
    differ = f"class {at} is {own.class_names[at]!r} to the network in {what}, but {new.class_names[at]!r} in the data"
    check(set(own.class_names) != set(new.class_names), f"the classes are in another order: {differ}")
    return f"the classes have other names: {differ}; they are matched by position"


def check_images(finished: FinishedRun, dataset: Dataset, what: str) -> int:
    """Check that a run's network accepts the images of a data set.

    Returns:
        The width of its embeddings.

    Raises:
        UserError: It does not.
    """
    own, new = finished.info.in_channels, dataset.in_channels
    check(own == new, f"the network in {what} takes images of {counted(own, 'channel')}, but the data has {new}")
    return output_shapes(finished.student, new, dataset.image_size).embedding


def write_info(info: DatasetInfo, folder: Path) -> None:
    """Write the description of a run's data to its folder."""
    write_atomically(folder / INFO, json.dumps(asdict(info), ensure_ascii=False, indent=2) + "\n")


def _read_info(folder: Path) -> DatasetInfo | None:
    """Return the description of a run's data; None for runs of versions that wrote none.

    Raises:
        UserError: The file was altered.
    """
    path = folder / INFO
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        check(isinstance(document, dict), "it is not a JSON object")
        known = options_of(DatasetInfo)
        return DatasetInfo(**bind({key: document[key] for key in document if key in known}, known, "it").all)
    except (OSError, ValueError, RecursionError) as error:
        reason = error if isinstance(error, UserError) else one_line(error)
        raise UserError(f"{path} cannot be read: {reason}") from error


def _changed(own: Any, data: Mapping[str, Any]) -> Any:
    if not data:
        return own
    return dict(data) if "name" in data else {**({"name": own} if isinstance(own, str) else own), **data}


def _build(part: Part, info: DatasetInfo | None, folder: Path) -> Dataset:
    """Build the data, normalised like the run's own unless an option says otherwise."""
    options = dict(part.bound.all)
    if info is not None and options.get("in_channels", info.in_channels) == info.in_channels:
        own = {"mean": info.mean, "std": info.std}
        options |= {name: own[name] for name in own.keys() & options.keys() if options[name] is None}
    try:
        dataset: Dataset = replace(part, bound=replace(part.bound, all=options)).build()
    except UserError as error:
        raise UserError(f"the data of {folder}: {error}") from error
    return dataset


def _without(node: Any, *keys: str) -> Any:
    """Return a network's node without some keys; a bare name is unchanged."""
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key not in keys}
