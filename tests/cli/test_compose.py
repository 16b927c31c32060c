from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import OwnConfigs

from graphkd import UserError
from graphkd.run import parse
from graphkd.run.folder import launch_folder
from graphkd_cli import compose, config_files
from graphkd_cli.config_files import config_folder, hydra_session


def test_a_mapping_replaces_a_part(folder: Path) -> None:
    composed = compose.compose(
        [
            "student={name: resnet8}", "data={name: digits, padding: 2}", "builder={name: complete}",
            "objective.hkd.gnn={name: gat, heads: 2}", "bank={kind: queue, length: 9}",
        ]
    )  # fmt: skip
    config = composed.config
    assert config["student"] == {"name": "resnet8"}
    assert config["data"] == {"name": "digits", "padding": 2}
    assert config["builder"] == {"name": "complete"}
    assert config["objective"]["hkd"]["gnn"] == {"name": "gat", "heads": 2}
    assert config["bank"] == config["objective"]["hkd"]["bank"] == {"kind": "queue", "length": 9}


def test_a_mapping_can_be_added_to_afterwards(folder: Path) -> None:
    words = [
        "teacher.seed=1",
        "teacher={name: resnet8}",
        "teacher.seed=3",
        "+student.depth=14",
        "student.widths=[1,1,1,1]",
    ]
    config = compose.compose(words).config
    assert config["teacher"] == {"name": "resnet8", "seed": 3}
    assert config["student"] == {
        "name": "resnet8",
        "widths": [1, 1, 1, 1],
        "depth": 14,
        "checkpoint": None,
        "drop_head": False,
    }


def test_the_last_of_several_counts(folder: Path) -> None:
    words = ["student={name: resnet8, widths: [1, 1, 1, 1]}", "student={name: resnet14}"]
    assert compose.compose(words).config["student"] == {"name": "resnet14"}
    assert compose.compose([*words, "student=resnet20"]).config["student"] == "resnet20"


def test_a_composition_can_be_replaced(folder: Path) -> None:
    config = compose.compose(["objective={first: {name: ce}, second: {name: ce, weight: 0.5}}"]).config
    assert config["objective"] == {"first": {"name": "ce"}, "second": {"name": "ce", "weight": 0.5}}


def test_what_was_asked_for_is_kept_as_written(folder: Path) -> None:
    words = ["gnn=gat", "student={name: resnet8}", "student.widths=[1,1,1,1]", "seed=1"]
    composed = compose.compose(words)
    assert composed.overrides == words
    assert compose.varied(words) == {
        "gnn": "gat", "student": "{name: resnet8}", "student.widths": "[1,1,1,1]",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bilder={name: knn}", "the config has no 'bilder'; did you mean 'builder'?"),
        ("loger=csv", "the config has no 'loger'; did you mean 'logger'?"),
        ("pear=digits", "the config has no 'pear'; did you mean 'pair'?"),
        ("logger.project=x", "no logger is chosen; choose one too; logger=NAME (choices: csv, mlflow, tensorboard"),
        ("experiment.name=x", "it is a choice that has no options of its own; experiment=NAME (choices: "),
        ("ablation=digits", "the config has no 'ablation'"),
        ("objective.hkdd={name: kd}", "objective has no 'hkdd'; did you mean 'hkd'?"),
        ("student=[resnet8]", "the override 'student=[resnet8]' cannot be applied"),
    ],
)
def test_a_node_that_is_not_there_cannot_be_replaced(folder: Path, word: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose(["seed=1", word, "gnn=gat"])
    assert message in str(raised.value)


def test_a_node_for_contrast_that_nothing_takes_is_refused(folder: Path) -> None:
    def check(*words: str) -> None:
        composed = compose.compose(words)
        compose.check_used(composed, parse(composed.config).unused_nodes)

    check("negatives=5", "bank.kind=queue", "bank.length=90")
    check("objective=crd", "negatives=5")
    for words in (["objective=kd", "bank.kind=queue"], ["objective=kd", "negatives=5"]):
        with pytest.raises(UserError, match=r"nothing in the objective .* uses (negatives|bank)"):
            check(*words)
    with pytest.raises(UserError, match="uses negatives"):
        check("objective.hkd.negatives=6", "negatives=5")


def test_a_grid_is_every_combination() -> None:
    assert compose.expand_sweep(["gnn=tag,gat", "seed=range(0,2)", "hydra/launcher=basic"]) == [
        [f"gnn={gnn}", f"seed={seed}"] for gnn in ("tag", "gat") for seed in (0, 1)
    ]
    assert compose.expand_sweep(["hydra/sweeper=optuna", "trainer.lr=interval(0,1)"]) is None


def test_ones_own_configs_come_first(folder: Path, own_configs: OwnConfigs) -> None:
    own = own_configs(
        {"builder/knn.yaml": "name: knn\nk: 3\n", "experiment/mine.yaml": "# @package _global_\nseed: 5\n"}
    )
    assert compose.compose([], str(own)).config["builder"] == {"name": "knn", "k": 3}
    assert compose.compose(["experiment=mine"], str(own)).config["seed"] == 5


def test_the_configs_are_the_checkouts(folder: Path) -> None:
    assert yaml.safe_load((config_folder() / "builder" / "knn.yaml").read_text())["name"] == "knn"
    assert config_folder().is_absolute()


def test_a_launch_folder_is_gone_afterwards(tmp_path: Path) -> None:
    seen: list[Path] = []

    def fail() -> None:
        with launch_folder(tmp_path / "results") as place:
            seen.append(place)
            assert place.is_dir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "results").exists()
    assert seen[0].is_absolute()


def test_a_trainer_may_leave_out_where_it_runs() -> None:
    composed = compose.compose(["trainer={epochs: 1}"])
    assert composed.config["teacher_trainer"]["accelerator"] == "auto"
    assert composed.config["teacher_trainer"]["threads"] == 2


@pytest.mark.parametrize(
    ("path", "content", "node", "value"),
    [
        ("builder/knn.yaml", "name: knn\nk: 4\n", "builder", {"name": "knn", "k": 4}),
        ("builder/knn.yaml", None, "builder", {"name": "knn", "k": 8, "metric": "softmax_cosine"}),
        ("gnn/tag.yaml", "name: tag\nhops: 1\n", "gnn", {"name": "tag", "hops": 1}),
        ("setting/digits.yaml", "# @package _global_\nseed: 7\n", "seed", 7),
    ],
    ids=["changed", "gone", "new", "new in a new group"],
)
def test_a_config_is_read_anew_once_its_files_have_changed(
    folder: Path, own_configs: OwnConfigs, path: str, content: str | None, node: str, value: object
) -> None:
    own = own_configs({"builder/knn.yaml": "name: knn\nk: 3\n"})
    assert compose.compose([], str(own)).config["builder"] == {"name": "knn", "k": 3}
    if content is None:
        (own / path).unlink()
    else:
        own_configs({path: content})
    config = compose.compose([], str(own)).config[node]
    assert value == ({key: config[key] for key in value} if isinstance(value, dict) else config)


def test_a_config_composed_again_is_the_same_and_bears_no_trace_of_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["gnn=gat", "builder={name: complete}", "teacher.seed=3", "+objective.kd={name: kd}"]
    asked = [words, ["gnn=gat"], words[1:], []]
    remembered = [compose.compose(each) for each in (*asked, *asked)]
    anew = []
    for each in asked:
        monkeypatch.setattr(config_files, "_REMEMBERED", {})
        anew.append(compose.compose(each))
    assert remembered == [*anew, *anew]


def test_the_folder_that_a_config_was_composed_in_is_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    for place in (folder, folder.parent):
        monkeypatch.chdir(place)
        with hydra_session() as hydra:
            places.append(compose._compose(hydra, "config", []).hydra.runtime.cwd)
    assert places == [str(folder), str(folder.parent)]


def test_configs_from_folders_that_a_config_adds_are_not_remembered(folder: Path, own_configs: OwnConfigs) -> None:
    more = folder / "more" / "builder"
    more.mkdir(parents=True)
    main = (config_folder() / "config.yaml").read_text()
    own = own_configs({"config.yaml": main.replace("\nhydra:\n", f"\nhydra:\n  searchpath: ['{folder / 'more'}']\n")})
    for count in (3, 4):
        (more / "mine.yaml").write_text(f"name: knn\nk: {count}\n")
        assert compose.compose(["builder=mine"], str(own)).config["builder"]["k"] == count
