from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

import graphkd
from graphkd import DATASETS, MODELS, UserError
from graphkd.data import Dataset, Split, TensorDataset
from graphkd.engine.callback import Callback
from graphkd.engine.seeding import generator, initialising
from graphkd.engine.trainer import Trainer
from graphkd.engine.weights import content_hash, save_weights
from graphkd.report import record as records
from graphkd.run import RunResult, parse, parse_teacher, run
from graphkd.run.probe import Embeddings, Probe, Target, find_students, parse_target
from graphkd_cli.compose import compose

Config = Callable[..., dict[str, Any]]
ALONE = {"objective": {"ce": "ce"}}
NEW = {"name": "digits", "classes": [5, 6, 7, 8, 9]}
SHORT = Probe(epochs=4, batch_size=32, weight_decay=1e-3, decay_at=(0.5,), threads=1, accelerator="cpu")


class Killed(BaseException):
    """As when a signal arrives."""


class Impatient(Callback):
    """Stops a training after some steps."""

    def __init__(self, steps: int, error: BaseException) -> None:
        self.steps = steps
        self.error = error

    def step(self) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise self.error


class Listener(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def student(tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished student of seed 3; tests leave its folder alone."""
    config = compose([*tiny_words, "objective=ce", "seed=3", "variant=plain"]).config
    results = str(tmp_path_factory.mktemp("students") / "results")
    return run(parse({**config, "results": results, "varied": {"objective": "ce"}}))


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return parse_target(NEW, SHORT, str(tmp_path / "results"))


def probe(student: RunResult | Path, target: Target, callback: Callback | None = None) -> RunResult:
    folder = student.folder if isinstance(student, RunResult) else student
    return run(target.spec(folder), callback)


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "probe.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples(dataset: Dataset, split: str) -> tuple[Tensor, Tensor]:
    (batch,) = dataset.eval_batches(split, 10_000, "cpu")
    return batch.images, batch.labels


def naive(student: RunResult, options: Probe) -> tuple[nn.Linear, list[dict[str, float]]]:
    """The same classifier by a plain loop, and its accuracies in each epoch."""
    network, dataset = graphkd.load(student.folder).student.eval(), DATASETS.build(**NEW)
    features = {}
    with torch.no_grad():
        for split in ("train", "val", "test"):
            images, labels = samples(dataset, split)
            features[split] = network(images).embedding, labels
    inputs, labels = features["train"]
    with initialising(student.record.seed, "probe_init"):
        head = nn.Linear(inputs.shape[1], 5)
    optimizer = torch.optim.SGD(
        head.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    accuracies = []
    for epoch in range(options.epochs):
        optimizer.param_groups[0]["lr"] = options.lr * (options.decay if epoch >= options.epochs / 2 else 1)
        order = torch.randperm(len(labels), generator=generator(student.record.seed, "order", epoch))
        for start in range(0, len(labels), options.batch_size):
            chosen = order[start : start + options.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(head(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            right = {split: (head(x).argmax(1) == y).double().mean() for split, (x, y) in features.items()}
        accuracies.append({split: 100 * float(share) for split, share in right.items()})
    return head, accuracies


# The training


def test_a_probe_is_what_a_plain_loop_trains(student: RunResult, target: Target) -> None:
    result = probe(student, target)
    head, epochs = naive(student, SHORT)
    found = weights(result.folder)
    assert found.keys() == {"linear.weight", "linear.bias"}
    torch.testing.assert_close(found["linear.weight"], head.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["linear.bias"], head.bias.detach(), rtol=1e-4, atol=1e-6)
    metrics, best = result.record.metrics, max(epochs, key=lambda epoch: epoch["val"])
    assert metrics.test_top1_last == pytest.approx(epochs[-1]["test"])
    assert metrics.test_top1_max == pytest.approx(max(epoch["test"] for epoch in epochs))
    assert metrics.val_top1_best == pytest.approx(best["val"])
    assert metrics.test_top1_at_best_val == pytest.approx(best["test"])


def test_two_probes_of_one_student_are_equal_bit_for_bit(student: RunResult, target: Target) -> None:
    first = probe(student, target)
    again = probe(student, dataclasses.replace(target, study="again"))
    assert first.folder != again.folder
    assert (first.folder / "probe.safetensors").read_bytes() == (again.folder / "probe.safetensors").read_bytes()
    assert first.record.metrics == again.record.metrics
    assert first.record.identity == again.record.identity


def test_the_students_run_stays_as_it_was(student: RunResult, target: Target) -> None:
    before = contents(student.folder)
    probe(student, target)
    assert contents(student.folder) == before


def test_a_network_that_is_embedded_does_not_change() -> None:
    network = MODELS.build("resnet8", num_classes=4, in_channels=1, widths=[2, 2, 4, 4]).train()
    before = copy.deepcopy(network.state_dict())
    dataset = DATASETS.build(**NEW)
    embeddings = Embeddings(network, dataset, 100, torch.device("cpu"))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    for split in ("train", "val", "test"):
        (images, labels), (inputs, same) = samples(dataset, split), samples(embeddings, split)
        torch.testing.assert_close(inputs, network(images).embedding)
        assert torch.equal(labels, same)
        assert not inputs.is_inference()
    assert torch.equal(embeddings.train_labels, dataset.train_labels)


def test_embeddings_are_a_data_set_like_others() -> None:
    network = MODELS.build("resnet8", num_classes=4, in_channels=1, widths=[2, 2, 4, 4])
    embeddings = Embeddings(network, DATASETS.build(**NEW), 100, torch.device("cpu"))
    inputs, labels = samples(embeddings, "train")
    order = torch.randperm(len(labels))
    batches = list(embeddings.train_batches(order, 50, 0, "cpu"))
    assert torch.equal(torch.cat([batch.images for batch in batches]), inputs[order])
    assert torch.equal(torch.cat([batch.labels for batch in batches]), labels[order])
    assert torch.equal(torch.cat([batch.indices for batch in batches]), order)
    assert len(batches) == embeddings.num_train_batches(50)
    half = embeddings.with_train_fraction(0.5)
    assert len(samples(half, "train")[1]) == len(half.train_labels) == pytest.approx(len(labels) / 2, abs=5)
    assert torch.equal(samples(half, "test")[0], samples(embeddings, "test")[0])
    with pytest.raises(UserError, match="no split 'validation'"):
        embeddings.eval_batches("validation", 8, "cpu")


# The record


def test_the_record_is_that_of_the_student_on_other_data(student: RunResult, target: Target) -> None:
    result = probe(student, target)
    record, source = records.read(result.folder / "record.json"), student.record
    assert record == result.record
    assert (record.kind, record.status, record.data, record.teacher) == ("student", "done", "digits", None)
    assert (record.study, record.variant, record.pair) == ("adhoc_transfer", "plain", source.pair)
    assert (record.varied, record.seed) == ({"objective": "ce"}, 3)
    assert record.metrics.agreement_last is None
    assert record.metrics.terms.keys() == {"ce"}
    assert result.folder == Path(target.results) / "adhoc_transfer" / "plain" / record.identity[:12] / "seed-3"
    assert {path.name for path in result.folder.iterdir()} == {"config.yaml", "probe.safetensors", "record.json"}


def test_the_config_says_how_to_do_it_again(student: RunResult, target: Target, tmp_path: Path) -> None:
    result = probe(student, target)
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    place = config.pop("student")
    assert config.pop("student_weights") == content_hash(student.folder / "student.safetensors")
    assert place == str(student.folder)
    config["probe"]["decay_at"] = tuple(config["probe"]["decay_at"])
    again = parse_target(**{**config, "probe": Probe(**config["probe"]), "results": str(tmp_path / "elsewhere")})
    other = probe(Path(place), again)
    assert other.record.identity == result.record.identity
    assert other.record.metrics == result.record.metrics


def test_the_record_names_the_plug_in_of_the_new_data(
    student: RunResult, tmp_path: Path, plugin: Callable[[str, str], Path]
) -> None:
    plugin("mine", "from graphkd import DATASETS\nfrom graphkd.data.digits import Digits\n\n\n"
           "@DATASETS.register('my_digits')\nclass MyDigits(Digits):\n    pass\n")  # fmt: skip
    made = parse_target({**NEW, "name": "my_digits"}, SHORT, str(tmp_path), plugins=["mine"]).spec(student.folder)
    assert made.plugins.keys() == {"mine"}


def test_without_a_validation_split_its_figures_are_empty(student: RunResult, tmp_path: Path) -> None:
    result = probe(student, parse_target({**NEW, "val_fraction": 0.0}, SHORT, str(tmp_path)))
    assert result.record.metrics.val_top1_best is None
    assert result.record.metrics.test_top1_at_best_val is None


def test_what_counts_in_the_identity(student: RunResult) -> None:
    plain = parse_target(NEW).spec(student.folder)

    def identity(target: Target, **source: Any) -> str:
        spec = target.spec(student.folder)
        record = dataclasses.replace(spec.student.record, **source)
        return dataclasses.replace(spec, student=dataclasses.replace(spec.student, record=record)).identity

    same = [Probe(), Probe(lr=0.1), Probe(threads=1, accelerator="cpu", eval_batch_size=7)]
    assert {identity(parse_target(NEW, options)) for options in same} == {plain.identity}
    assert identity(parse_target({**NEW, "flip": False}, study="x", results="y")) == plain.identity
    different = {
        plain.identity,
        identity(parse_target(NEW, Probe(epochs=99))),
        identity(parse_target({**NEW, "classes": [0, 1]})),
        identity(parse_target(NEW), identity="other"),
        identity(parse_target(NEW), pair="other->resnet8"),
        student.record.identity,
    }
    assert len(different) == 6
    assert identity(parse_target(NEW), seed=9) == plain.identity


def test_the_probes_trainer_has_all_its_options() -> None:
    options = Probe(epochs=20, batch_size=3, lr=1.0, decay_at=(0.25,))
    trainer = options.trainer()
    assert isinstance(trainer, Trainer)
    assert (trainer.epochs, trainer.batch_size, trainer.lr, trainer.weight_decay) == (20, 3, 1.0, 0.0)
    assert trainer.decay_epochs == [5]
    assert Probe().trainer().decay_epochs == [30, 60, 90]


# Again, and after trouble


def test_a_finished_probe_is_not_trained_again(student: RunResult, target: Target) -> None:
    first = probe(student, target)
    before = contents(first.folder)
    again = probe(student, target, Impatient(1, AssertionError("it trains")))
    assert (first.reused, again.reused) == (False, True)
    assert again.record == first.record
    assert contents(first.folder) == before


@pytest.mark.parametrize("harm", ["gone", "empty", "half", "altered"])
def test_a_probe_whose_weights_are_torn_is_trained_again(student: RunResult, target: Target, harm: str) -> None:
    first = probe(student, target)
    path = first.folder / "probe.safetensors"
    content = path.read_bytes()
    harmed = {"empty": b"", "half": content[: len(content) // 2], "altered": content[:-3] + b"\x07" + content[-2:]}
    if harm == "gone":
        path.unlink()
    else:
        assert content != harmed[harm]
        path.write_bytes(harmed[harm])
    listener = Listener()
    again = probe(student, target, listener)
    (note,) = (each for each in listener.notes if "probe.safetensors" in each)
    assert note.endswith("; the probe is trained again")
    assert not again.reused
    assert again.record.metrics == first.record.metrics
    assert path.read_bytes() == content
    assert probe(student, target).reused


def test_a_probe_of_a_student_that_was_trained_again_is_too(student: RunResult, target: Target, tmp_path: Path) -> None:
    copied = dataclasses.replace(student, folder=shutil.copytree(student.folder, tmp_path / "copied"))
    weights = copied.folder / "student.safetensors"
    assert not probe(copied, target).reused
    assert probe(student, target).reused, "a copy's weights are the same"
    state = safetensors.torch.load_file(weights)
    network = graphkd.load(copied.folder).student
    network.load_state_dict({name: value + 1 for name, value in state.items()})
    save_weights(network, weights)
    listener = Listener()
    assert not probe(copied, target, listener).reused
    assert any("are no longer those of its probe; the probe is trained again" in note for note in listener.notes)
    assert probe(copied, target).reused


def test_a_probe_that_was_killed_is_trained_after_all(student: RunResult, target: Target) -> None:
    with pytest.raises(Killed):
        probe(student, target, Impatient(20, Killed()))
    (left,) = Path(target.results).glob("adhoc_transfer/*/*/seed-3/record.json")
    assert records.read(left).status == "running"
    result = probe(student, target)
    fresh = probe(student, dataclasses.replace(target, study="fresh"))
    assert result.record.metrics == fresh.record.metrics
    assert {path.name for path in result.folder.iterdir()} == {path.name for path in fresh.folder.iterdir()}


def test_a_probe_that_failed_says_so(student: RunResult, target: Target) -> None:
    with pytest.raises(RuntimeError):
        probe(student, target, Impatient(1, RuntimeError("out of\nluck")))
    (left,) = Path(target.results).glob("adhoc_transfer/*/*/seed-3/record.json")
    failed = records.read(left)
    assert (failed.status, failed.error) == ("failed", "RuntimeError: out of")
    assert probe(student, target).record.status == "done"


# Which students


def test_all_finished_students_are_found_and_nothing_else(
    tiny_config: Config, student: RunResult, target: Target, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    first = results / student.folder.relative_to(student.folder.parents[3])
    shutil.copytree(student.folder, first)
    second = run(parse(tiny_config({**ALONE, "study": "suite", "seed": 1}))).folder
    run(parse_teacher(tiny_config()))
    probe(student, target)
    shutil.copytree(first, first.with_name(".seed-3.old"))
    unfinished = first.with_name("seed-4")
    shutil.copytree(first, unfinished)
    records.write(dataclasses.replace(student.record, status="running"), unfinished / "record.json")
    assert find_students(results) == sorted([first, second])
    assert find_students(results / "suite") == [second]
    assert find_students(str(first)) == [first]


def test_no_students_no_transfer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished student"):
        find_students(tmp_path)
    with pytest.raises(UserError, match="no run or results folder"):
        find_students(tmp_path / "nowhere")


def test_only_students_are_transferred(tiny_config: Config, student: RunResult, target: Target) -> None:
    teacher = run(parse_teacher(tiny_config()))
    with pytest.raises(UserError, match="holds a teacher"):
        probe(teacher, target)
    with pytest.raises(UserError, match="holds a linear probe, not a network; name the run of its student"):
        probe(probe(student, target), target)


# What does not fit


def coloured(channels: int, size: int) -> TensorDataset:
    split = Split(torch.zeros(4, channels, size, size, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    names = [0.5] * channels
    return TensorDataset({"train": split, "test": split}, ["a", "b"], mean=names, std=names)


def test_images_of_other_channels_are_refused_before_anything_is_written(student: RunResult, target: Target) -> None:
    with pytest.raises(UserError, match="takes images of 1 channel, but the data has 3"):
        run(target.spec(student.folder), dataset=coloured(3, 8))
    assert not Path(target.results).exists()


def test_images_of_a_size_that_the_network_refuses_are_too(tiny_config: Config, tmp_path: Path) -> None:
    vgg = run(parse(tiny_config({**ALONE, "student": {"name": "vgg8", "widths": [2, 2, 2, 2, 2]}})))
    with pytest.raises(UserError, match="4x4"):
        run(parse_target(NEW, SHORT, str(tmp_path / "out")).spec(vgg.folder), dataset=coloured(1, 4))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "^probe: lr is 0.0"),
        ({"lr": float("inf")}, "^probe: lr is inf"),
        ({"weight_decay": float("nan")}, "^probe: weight_decay is nan"),
        ({"epochs": 0}, "^probe: epochs is 0"),
        ({"decay_at": (30.0,)}, "^probe: decay_at"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Probe(**options)


def test_unknown_data_is_named() -> None:
    with pytest.raises(UserError, match="no data set 'digit'; did you mean 'digits'"):
        parse_target({"name": "digit"})
    with pytest.raises(UserError, match="has no option 'clases'"):
        parse_target({"name": "digits", "clases": [1]})
    with pytest.raises(UserError, match="data needs a name"):
        parse_target({})


def test_a_study_must_be_a_plain_name(student: RunResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study is"):
        parse_target(NEW, SHORT, str(tmp_path / "out"), study="../x")
    assert not (tmp_path / "out").exists()
