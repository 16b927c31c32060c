"""Linear probe of a frozen student: how well its features transfer to another data set."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.data import DATASETS, Batch, Dataset, Split, stratified_subset
from graphkd.data.tensor import split_in_batches
from graphkd.engine.seeding import initialising
from graphkd.engine.threads import torch_threads
from graphkd.engine.trainer import Trainer, checked_trainer
from graphkd.engine.weights import check_weights, content_hash
from graphkd.errors import UserError, check, one_of
from graphkd.identity import identity
from graphkd.model import Network
from graphkd.model.base import eval_mode
from graphkd.registry import import_plugins
from graphkd.report.record import read as read_record
from graphkd.run.finished import FinishedRun, check_images, load
from graphkd.run.folder import CONFIG, RECORD, WEIGHTS, read_config, visible_folders
from graphkd.run.parse import check_keys, check_study
from graphkd.run.part import Part, counted_options, source_hashes
from graphkd.run.spec import Built, RunSpec, cross_entropy, run_place


@dataclass(frozen=True)
class Probe:
    """Options of training a linear classifier on a frozen student's features, by SGD without augmentation.

    As in the benchmark (CRD, arXiv 1910.10699, section 4.2), everything up to the pooled feature is frozen and one
    linear layer follows; how that layer was trained is not published. No weight decay follows the authors of DKD
    (mdistiller, issue 59). The rest is our choice: batch size and momentum as in distillation, and 100 epochs from 0.1
    with steps at 30, 60 and 90, as is usual for linear classifiers.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples per step.
        lr: Learning rate at the start.
        momentum: SGD's momentum.
        weight_decay: L2 penalty.
        decay_at: Shares of the epochs after which the learning rate falls.
        decay: Factor of each fall.
        eval_batch_size: Images per forward pass of the student; changes memory and speed only.
        accelerator: Kind of device; auto uses CUDA if available.
        threads: Threads of torch on the CPU; results are bit-equal only at the same number.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"eval_batch_size", "accelerator", "threads"})

    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay: float = 0.1
    eval_batch_size: int = 256
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise `UserError` if the trainer does not take an option."""
        self.trainer()

    def trainer(self) -> Trainer:
        """Return the trainer with these options."""
        return checked_trainer(vars(self), "probe")


class LinearProbe(Network):
    """Linear classifier on embeddings."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for embeddings, float [B, dim], passed instead of images."""
        return NetworkOutput(self.linear(images), [], images)


class Embeddings(Dataset):
    """Data set of a frozen network's embeddings, float32 [B, D], of unaugmented images."""

    def __init__(self, network: Network, dataset: Dataset, batch_size: int, device: torch.device) -> None:
        """Compute the embeddings of every split, in eval mode.

        Args:
            network: The network, on `device`; neither its state nor its mode changes.
            dataset: The data.
            batch_size: Samples per forward pass.
            device: Device that computes and keeps them.
        """
        self.num_classes, self.class_names, self.splits = dataset.num_classes, dataset.class_names, dataset.splits
        with eval_mode(network):
            self._data = {split: _embed(network, dataset, split, batch_size, device) for split in self.splits}
        self.train_labels = self._data["train"].labels.cpu()
        self.in_channels, self.image_size = self._data["train"].images.shape[1], 1

    def train_batches(
        self, order: Tensor, batch_size: int, augmentation_seed: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """See `Dataset.train_batches`; nothing is augmented."""
        return self._batches("train", order, batch_size, device)

    def eval_batches(self, split: str, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        one_of(split, self._data, "there is no split")
        return self._batches(split, torch.arange(len(self._data[split].labels)), batch_size, device)

    def with_train_fraction(self, fraction: float) -> Embeddings:
        """See `Dataset.with_train_fraction`."""
        part, train = copy.copy(self), self._data["train"]
        chosen = stratified_subset(self.train_labels, fraction, seed=0)
        on_device = chosen.to(train.labels.device)
        part._data = {**self._data, "train": Split(train.images[on_device], train.labels[on_device])}
        part.train_labels = self.train_labels[chosen]
        return part

    def _batches(self, split: str, order: Tensor, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        embeddings, labels = (tensor.to(device) for tensor in self._data[split])
        for indices in split_in_batches(order.to(device), batch_size):
            yield Batch(embeddings[indices], labels[indices], indices)


def _embed(network: Network, dataset: Dataset, split: str, batch_size: int, device: torch.device) -> Split:
    with torch.inference_mode():
        batches = [
            (network(batch.images).embedding.float(), batch.labels)
            for batch in dataset.eval_batches(split, batch_size, device)
        ]
    # Concatenated outside: autograd refuses tensors made in inference mode.
    embeddings, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return Split(embeddings, labels)


@dataclass(frozen=True)
class Target:
    """Target of a transfer, checked.

    Attributes:
        data: The new data set.
        probe: Options of the classifier's training.
        results: The results folder of the probes.
        study: The study of their records; None for "<the student's study>_transfer".
        plugins: Modules that register the new data set.
    """

    data: Part
    probe: Probe
    results: str
    study: str | None
    plugins: tuple[str, ...]

    def spec(self, run_dir: str | Path) -> ProbeSpec:
        """Return the run that probes a finished student.

        The classifier's initial weights and the order of the samples come from the student's seed, so that probes of
        one seed share them.

        Args:
            run_dir: The student's run.

        Raises:
            UserError: The folder holds no finished student.
        """
        folder = Path(run_dir)
        student = load(folder)
        record = student.record
        check(record.kind == "student", f"{folder} holds a {record.kind}, but only students are transferred")
        study = f"{record.study}_transfer" if self.study is None else self.study
        own = {"data": self.data.document, "results": self.results, "study": study, "run_dir": None, "force": False}
        config = {**student.config, **own, "variant": record.variant, "varied": record.varied}
        check_keys(config)
        return ProbeSpec(
            config=config, data=self.data, trainer=self.probe.trainer(), seed=record.seed, student=student,
            run_dir=folder, target=dataclasses.replace(self, study=study),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ProbeSpec(RunSpec):
    """A linear classifier on a finished student's features of other data.

    Attributes:
        student: The student's run.
        run_dir: Its folder.
        target: The target of the transfer.
    """

    kind = "probe"
    trainer_node = "probe"
    predicts = False

    student: FinishedRun
    run_dir: Path
    target: Target

    @property
    def variant(self) -> str:
        """The student's variant."""
        return self.student.record.variant

    @functools.cached_property
    def identity(self) -> str:
        """Hash of student, data, the classifier's training and the pair.

        The pair counts because a student without a teacher is the same run in every pair, but every pair's table needs
        a probe.
        """
        record = self.student.record
        student = {"is": record.identity, "pair": record.pair}
        probe = counted_options(self.target.probe)
        return identity({"student": student, "data": self.data.identity, "probe": probe})

    @property
    def folder(self) -> Path:
        """See `RunSpec`."""
        study = Path(self.target.results) / str(self.target.study)
        return run_place(study, self.variant, self.identity, self.seed)

    @property
    def plugins(self) -> dict[str, str]:
        """The student's plug-ins, and that of the new data."""
        return {**self.student.record.code.plugins, **source_hashes([self.data])}

    @property
    def document(self) -> dict[str, Any]:
        """Arguments of `parse_target`, the student's folder, and the hash of its weights."""
        return {
            "student": str(self.run_dir.absolute()),
            "student_weights": content_hash(self.run_dir / WEIGHTS["student"]),
            **vars(self.target),
            "data": self.data.document,
            "probe": vars(self.target.probe),
        }

    def problem(self, folder: Path) -> str | None:
        """Return a message if the classifier's weights are truncated or altered, or the student's are others now."""
        try:
            check_weights(folder / WEIGHTS["probe"])
        except UserError as error:
            return f"{error}; the probe is trained again"
        known = read_config(folder / CONFIG).get("student_weights")
        if known not in (None, content_hash(self.run_dir / WEIGHTS["student"])):
            return f"the weights in {self.run_dir} are no longer those of its probe; the probe is trained again"
        return None

    def build(self, dataset: Dataset, teacher: Network | None = None) -> Built:
        """See `RunSpec`."""
        with initialising(self.seed, "probe_init"):
            network = LinearProbe(check_images(self.student, dataset, str(self.run_dir)), dataset.num_classes)
        return Built(network, cross_entropy())

    def training_data(self, dataset: Dataset, built: Built) -> Dataset:
        """Return the frozen student's embeddings of the data."""
        device = self.trainer.fabric().device
        with torch_threads(self.trainer.threads):
            return Embeddings(self.student.student.to(device), dataset, self.trainer.eval_batch_size, device)


def parse_target(
    data: Mapping[str, Any],
    probe: Probe | None = None,
    results: str = "results",
    study: str | None = None,
    plugins: Sequence[str] = (),
) -> Target:
    """Check the options of `configs/transfer.yaml`.

    Args:
        data: The new data set: its name and options.
        probe: Options of the classifier's training.
        results: The results folder to write in.
        study: The study of the records; None for "<the student's study>_transfer".
        plugins: Modules to import that register the data set.

    Raises:
        UserError: The data set or one of its options is unknown or of a wrong type, the study is no plain name, or a
            plugin fails.
    """
    import_plugins(plugins)
    options = dict(data)
    name = options.pop("name", None)
    check(isinstance(name, str), "data needs a name, for example data=digits")
    if study is not None:
        check_study(study)
    part = Part(DATASETS, name, DATASETS.bind(name, options))
    return Target(part, probe or Probe(), results, study, tuple(plugins))


def find_students(folder: str | Path) -> list[Path]:
    """Return the folders of all finished students (not probes) at or below a folder, sorted.

    Raises:
        UserError: There is no such folder, or it has no finished student.
    """
    root = Path(folder)
    check(root.is_dir(), f"there is no run or results folder {root}")
    if (root / RECORD).is_file():
        return [root]
    students = [place for place in sorted(visible_folders(root)) if _is_done(place)]
    check(len(students) > 0, f"there is no finished student below {root}")
    return students


def _is_done(folder: Path) -> bool:
    """Return whether a folder holds a finished student."""
    if not (folder / WEIGHTS["student"]).is_file() or not (folder / RECORD).is_file():
        return False
    record = read_record(folder / RECORD)
    return record.kind == "student" and record.status == "done"
