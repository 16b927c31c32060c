"""What loggers are sent, by a real run; the tools that are not installed here are played."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from graphkd import LOGGERS, UserError
from graphkd.engine.callback import Callback
from graphkd.logger import LoggedRun, Logger, LoggerCallback
from graphkd.run import check_parts, parse, run

Config = Callable[..., dict[str, Any]]
EPOCHS = 2


class Tool:
    """Remembers every call; each returns the tool itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.info = SimpleNamespace(run_id="7")

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Tool:
            self.calls.append((name, args, options))
            return self

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def trained(tiny_config: Config) -> Callable[..., Path]:
    """Trains a student with a logger and returns its folder."""

    def train(logger: Mapping[str, Any], **changes: Any) -> Path:
        return run(parse(tiny_config({"logger": logger, "trainer.epochs": EPOCHS, **changes}))).folder

    return train


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def play(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """Put a module in the place of a tool."""
    module = ModuleType(name)
    module.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_csv_has_a_row_for_each_epoch(trained: Callable[..., Path]) -> None:
    folder = trained({"name": "csv"})
    rows = list(csv.DictReader((folder / "csv" / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 2]
    for row, line in zip(rows, lines(folder), strict=True):
        assert float(row["test/top1"]) == line["test"]["top1"]
        assert float(row["terms/hkd.holistic"]) == line["terms"]["hkd.holistic"]["raw"]
        assert float(row["diagnostics/hkd.overlap"]) == line["diagnostics"]["hkd.overlap"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs graphkd[tensorboard]")
def test_tensorboard_gets_every_epoch(trained: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained({"name": "tensorboard"})
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("test/top1")]
    assert found == [(line["epoch"], pytest.approx(line["test"]["top1"])) for line in lines(folder)]


def test_wandb_is_sent_epochs_and_final_figures(trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool()
    tool.summary = tool
    play(monkeypatch, "wandb", init=lambda **options: tool.init(**options), Settings=dict)
    folder = trained({"name": "wandb", "project": "mine", "mode": "offline"})
    teacher, student = (options for _, options in tool.of("init"))
    assert (teacher["project"], student["project"], student["mode"]) == ("mine", "mine", "offline")
    assert student["id"] != teacher["id"]
    assert student["resume"] == "allow"
    last = lines(folder)[-1]
    (logged,), options = tool.of("log")[-1]
    assert (logged["test/top1"], options["step"]) == (last["test"]["top1"], EPOCHS)
    assert tool.of("update")[-1][0][0]["test_top1_last"] == last["test"]["top1"]
    assert [options for _, options in tool.of("finish")] == [{"exit_code": 0}] * 2


def test_a_run_that_is_forced_again_gets_a_key_of_its_own(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool()
    tool.summary = tool
    play(monkeypatch, "wandb", init=lambda **options: tool.init(**options), Settings=dict)
    changes = {"logger": {"name": "wandb"}, "objective": CE}
    keys = []
    for force in (False, True, True):
        run(parse(tiny_config({**changes, "force": force})))
        keys.append(tool.of("init")[-1][1]["id"])
    assert len(set(keys)) == 3
    assert all(key.startswith(keys[0]) for key in keys)


def test_runs_of_one_config_in_different_folders_have_different_keys(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool()
    tool.summary = tool
    play(monkeypatch, "wandb", init=lambda **options: tool.init(**options), Settings=dict)
    monkeypatch.setattr("graphkd.engine.loop.TrainingLoop.__init__", _interrupt)
    monkeypatch.chdir(tmp_path)

    def key(folder: Path) -> str:
        config = tiny_config({"logger": {"name": "wandb"}, "objective": CE, "run_dir": str(folder)})
        with pytest.raises(KeyboardInterrupt):
            run(parse(config))
        return str(tool.of("init")[-1][1]["id"])

    assert key(tmp_path / "a") == key(Path("a")) != key(tmp_path / "b")


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_mlflow_goes_on_in_the_run_of_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, found = Tool(), list[Any]()
    tool.get_experiment_by_name = lambda name: SimpleNamespace(experiment_id="1")
    tool.search_runs = lambda experiments, query, max_results: found
    play(monkeypatch, "mlflow.tracking", MlflowClient=lambda uri: tool)
    play(monkeypatch, "mlflow.entities", Metric=lambda name, value, time, step: (name, value, step))
    logged = LoggedRun("suite", "hkd seed 0", "key-0", tmp_path, {"seed": 0})
    for number in (1, 2):
        logger: Logger = LOGGERS.build("mlflow")
        logger.open(logged)
        logger.log({"test/top1": 50.0 + number}, number)
        logger.close({"test_top1_last": 52.0} if number == 2 else {})
        found[:] = [SimpleNamespace(info=SimpleNamespace(run_id="7"))]
    assert [options["tags"] for _, options in tool.of("create_run")] == [{"graphkd": "key-0"}]
    assert tool.of("log_batch") == [
        (("7",), {"metrics": [metric]})
        for metric in (("test/top1", 51.0, 1), ("test/top1", 52.0, 2), ("test_top1_last", 52.0, 0))
    ]
    assert [args for args, _ in tool.of("set_terminated")] == [("7", "FAILED"), ("7", "FINISHED")]


def test_trackio_is_sent_epochs(trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool()
    play(monkeypatch, "trackio", init=lambda **options: tool.init(**options))
    folder = trained({"name": "trackio"})
    steps = [options.get("step") for _, options in tool.of("log")]
    assert steps[-EPOCHS - 1 :] == [1, 2, None]
    assert tool.of("log")[-2][0][0]["test/top1"] == lines(folder)[-1]["test"]["top1"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "tensorboard"])
def test_a_tool_that_is_not_installed_is_named_with_the_way_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking" if name == "mlflow" else name, None)
    with pytest.raises(UserError, match=rf"logger={name} needs .* python -m pip install -e '\.\[{name}\]'"):
        LOGGERS.build(name)


def test_a_missing_tool_is_told_before_anything_is_written(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny_config({"logger": {"name": "wandb"}})
    with pytest.raises(UserError, match="logger=wandb needs"):
        run(parse(config))
    with pytest.raises(UserError, match="a run: logger=wandb needs"):
        check_parts([("a run", parse(config))])
    assert not Path(config["results"]).exists()


def test_a_tool_that_refuses_is_the_users_to_mend(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError("no API key\nlog in first")

    play(monkeypatch, "wandb", init=refuse, Settings=dict)
    with pytest.raises(UserError, match=r"^the logger does not start: PermissionError: no API key.*$"):
        run(parse(tiny_config({"logger": {"name": "wandb"}, "objective": CE})))


class Failing(Logger):
    """Fails in the second epoch."""

    def open(self, run: LoggedRun) -> None:
        self.epochs: list[int] = []

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.epochs.append(epoch)
        if epoch == 2:
            raise ConnectionError("the server is away")

    def close(self, summary: Mapping[str, float]) -> None:
        self.epochs.append(0)


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_tool_that_fails_stops_no_training(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, notes = Failing(), Notes()
    monkeypatch.setattr("graphkd.run.part.Part.build", _building(logger))
    result = run(parse(tiny_config({"logger": {"name": "csv"}, "trainer.epochs": 3, "objective": CE})), notes)
    assert result.record.status == "done"
    assert logger.epochs == [1, 2, 0], "closed although it failed"
    assert [note for note in notes.notes if "logger" in note] == [
        "the logger stopped, the training goes on: ConnectionError: the server is away"
    ]


CE = {"ce": {"name": "ce"}}


def _building(logger: Logger) -> Callable[..., Any]:
    from graphkd.run.part import Part

    build = Part.build

    def instead(part: Part, **runtime: Any) -> Any:
        return logger if part.registry is LOGGERS else build(part, **runtime)

    return instead


def test_epochs_before_an_interruption_are_logged_again_where_the_tool_has_lost_them(tmp_path: Path) -> None:
    from graphkd.engine.callback import EpochResult, History

    first = EpochResult(1, 0.1, 2.0, {}, 10.0, None, None, 1.0)
    for keeps, expected in ((True, [2]), (False, [1, 2])):
        logger = Failing()
        logger.keeps_epochs = keeps  # type: ignore[misc]
        callback = LoggerCallback(logger, LoggedRun("suite", "kd", "key", tmp_path, {}), Callback())
        callback.resume(History(epochs=[first]))
        callback.epoch(EpochResult(2, 0.1, 2.0, {}, 10.0, None, None, 1.0))
        assert logger.epochs == expected


def test_the_logger_is_no_part_of_the_identity(tiny_config: Config) -> None:
    plain = parse(tiny_config())
    watched = parse(tiny_config({"logger": {"name": "csv"}}))
    assert plain.identity == watched.identity
    with pytest.raises(UserError, match="there is no logger 'csw'; did you mean 'csv'"):
        parse(tiny_config({"logger": {"name": "csw"}}))
