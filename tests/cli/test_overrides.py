"""Overrides as users type them: in any order, and texts without quotes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from graphkd import UserError
from graphkd.ablation import quoted
from graphkd_cli.compose import compose, expand_sweep
from graphkd_cli.overrides import in_grammar, parse, split_words

IN_ANY_ORDER: list[tuple[list[str], str, Any]] = [
    (["teacher=resnet20", "teacher.checkpoint=x.pth"], "teacher", {"name": "resnet20", "checkpoint": "x.pth"}),
    (["teacher=resnet20", "teacher.seed=3"], "teacher", {"name": "resnet20", "seed": 3}),
    (["student=resnet8", "student.widths=[4,4,8,16]"], "student", {"name": "resnet8", "widths": [4, 4, 8, 16]}),
    (["student=resnet8", "+student.widths=[4,4,8,16]"], "student", {"name": "resnet8", "widths": [4, 4, 8, 16]}),
    (["student={name: resnet8}", "student.name=resnet14"], "student", {"name": "resnet14"}),
    (["teacher_gnn=gat", "teacher_gnn.heads=2"], "teacher_gnn", {"name": "gat", "heads": 2}),
    (["objective=hkd", "objective.hkd.builder=threshold", "objective.hkd.builder.tau=0.5"],
     "objective.hkd.builder", {"name": "threshold", "tau": 0.5}),
    (["objective.hkd.gnn.heads=2", "objective.hkd.gnn={name: gat}"], "objective.hkd.gnn", {"name": "gat", "heads": 2}),
    (["objective.kd=ce", "objective.kd.weight=2"], "objective.kd", {"name": "ce", "weight": 2}),
    (["objective={kd: {name: kd}}", "objective.kd.weight=9"], "objective", {"kd": {"name": "kd", "weight": 9}}),
    (["objective={kd: {name: kd}}", "+objective.ce=ce"], "objective", {"kd": {"name": "kd"}, "ce": "ce"}),
    (["builder={name: threshold}", "builder.tau=0.5"], "builder", {"name": "threshold", "tau": 0.5}),
    (["builder=threshold", "builder.tau=0.5", "builder.cap=3"], "builder.tau", 0.5),
    (["~objective.kd", "objective.hkd.weight=9"], "objective.hkd.weight", 9),
]  # fmt: skip
REFUSED = [
    (["objective={a: {name: kd}}", "objective.kd.temperature=9"], ["'objective.kd.temperature=9'", "{a: {name: kd}}"]),
    (["~objective.kd", "objective.kd.temperature=9"], ["'objective.kd.temperature=9'", "'~objective.kd'"]),
    (["teacher_gnn.heads=2", "gnn=gat"], ["'teacher_gnn.heads=2'", "teacher_gnn is null", "teacher_gnn=gat"]),
    (["teacher_gnn=shared", "teacher_gnn.heads=2"], ["'teacher_gnn.heads=2'", "teacher_gnn is shared"]),
    (["objective.hkd.builder.k=3", "objective=hkd"], ["objective.hkd.builder is null", "objective.hkd.builder=knn"]),
    (["bilder=knn", "studnt=resnet8"], ["'bilder=knn'", "'builder'"]),
    (["builder.kk=3", "studnt=resnet8"], ["'studnt=resnet8'", "'student'"]),
    (["seed=[1", "trainer.lr=x(1)"], ["'seed=[1'"]),
]
POOL = [
    "teacher=resnet20", "teacher.checkpoint=x.pth", "teacher.seed=1", "student.widths=[1,1,1,1]",
    "student={name: resnet8}", "objective=hkd_kd", "objective.kd.temperature=9", "objective.kd=ce", "~objective.kd",
    "objective.hkd.builder.k=3", "objective.hkd.builder=knn", "+objective.z=kd", "+objective.a=kd",
    "+term@objective.y=ce", "+term@objective.b=ce", "gnn=gat",
    "teacher_gnn=gat", "teacher_gnn.heads=2", "data=folder", "data.root=a b (1)", "seed=3", "trainer.lrr=1",
    "trainer={epochs: 1}", "trainer.lr=0.5",
]  # fmt: skip
TEXTS = [
    "my photos (1)", "фото", "a=b", "with,comma", "it's", "$x", "{a}", "[1]", "${x", "${x} (1)", "2024", "1e5", "007",
    "true", "range(1,3)", "photos(1)", "a#b;c&d!", "say \"x\"", "C:\\photos (1)\\", "'", "a: b", "写真/猫",
]  # fmt: skip


def answer(words: list[str]) -> Any:
    try:
        return compose(words).config
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(("words", "path", "value"), IN_ANY_ORDER, ids=[" ".join(w) for w, _, _ in IN_ANY_ORDER])
def test_overrides_count_in_any_order(folder: Path, words: list[str], path: str, value: Any) -> None:
    for some in (words, words[::-1]):
        assert OmegaConf.select(OmegaConf.create(compose(some).config), path) == value, some


@pytest.mark.parametrize(("words", "culprits"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_used_is_refused_in_any_order(folder: Path, words: list[str], culprits: list[str]) -> None:
    (message,) = {answer(words), answer(words[::-1])}
    assert all(culprit in message for culprit in culprits), message


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(POOL), min_size=2, max_size=6, unique=True).flatmap(
    lambda words: st.tuples(st.just(words), st.permutations(words))
))  # fmt: skip
def test_every_order_gives_the_same_config_or_the_same_error(folder: Path, orders: tuple[list[str], list[str]]) -> None:
    first, second = (answer(words) for words in orders)
    assert first == second
    assert list(first["objective"]) == list(second["objective"]) if isinstance(first, dict) else True


def test_of_two_for_one_node_the_later_counts(folder: Path) -> None:
    assert compose(["builder={name: complete}", "builder=threshold"]).config["builder"]["name"] == "threshold"
    assert compose(["builder=threshold", "builder={name: complete}"]).config["builder"] == {"name": "complete"}
    assert compose(["seed=1", "seed=2"]).config["seed"] == 2


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_needs_no_quotes(folder: Path, text: str) -> None:
    config = compose(["data=folder", f"data.root={text}", f"results={text}", f"teacher.checkpoint={text}"]).config
    assert config["data"]["root"] == config["results"] == config["teacher"]["checkpoint"] == text


def test_what_an_option_takes_beside_texts_stays_what_it_is(folder: Path) -> None:
    words = ["data=parquet", "data.train=[a,b]", "data.cache=false", "data.val=null", "run_dir=null"]
    config = compose(words).config
    data = config["data"]
    assert (data["train"], data["cache"], data["val"], config["run_dir"]) == (["a", "b"], False, None, None)
    assert compose(["data=parquet", "data.cache=мой"]).config["data"]["cache"] == "мой"
    assert compose(["results='my (1)'", "seed=7"]).config["results"] == "my (1)"
    assert compose(["results=${study}", "study=x"]).config["results"] == "x"


def test_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert compose(["results=~/my runs"]).config["results"] == "/home/me/my runs"
    assert compose(["results='~/x'"]).config["results"] == "~/x"


def test_a_comma_sweeps_over_texts_too(folder: Path) -> None:
    words = ["data=folder", "data.root=a b (1),фото,2024,'x,y'", "teacher=resnet8,resnet14", "teacher.seed=1"]
    jobs = expand_sweep(words)
    assert jobs is not None
    found = [compose(job).config for job in jobs]
    assert [(each["data"]["root"], each["teacher"]["name"]) for each in found] == [
        (root, name) for root in ("a b (1)", "фото", "2024", "x,y") for name in ("resnet8", "resnet14")
    ]
    assert {each["teacher"]["seed"] for each in found} == {1}


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.text("\\'\"${}a, ", max_size=8))
def test_a_quoted_text_stays_what_it_is(text: str) -> None:
    (override,) = parse([f"results={quoted(text)}"])
    assert OmegaConf.create({"results": override.value()}).results == text


@given(st.text(st.characters(blacklist_categories=["Cs", "Z", "Cc"], blacklist_characters="\\'\"$"), min_size=1))
def test_any_sign_may_be_in_a_text(text: str) -> None:
    for word in (f"results={text}", f"data.root={text}"):
        (override,) = parse(in_grammar([word]))
        if text.lower() != "null" and not text.startswith("~"):
            assert override.value() == text


def test_a_config_of_ones_own_may_name_a_part(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nteacher: resnet20\nbuilder: complete\n")
    for words in itertools.permutations(["experiment=mine", "teacher.checkpoint=x"]):
        config = compose(list(words), str(tmp_path)).config
        assert config["teacher"] == {"name": "resnet20", "checkpoint": "x"}
        assert config["builder"] == "complete"


def test_a_config_of_ones_own_does_not_change_the_output(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nhydra: {verbose: true}\n")
    with pytest.raises(UserError, match=r"the configs set hydra.verbose"):
        compose(["experiment=mine"], str(tmp_path))


def test_an_interpolation_in_an_override_is_kept_as_written(folder: Path) -> None:
    assert compose(["results=${study}"]).overrides == ["results=${study}"]


WRONG: list[tuple[str, list[str]]] = [
    ("teacher", ["'teacher'", "key=value", "without spaces"]),
    ("teacher:x=3", ["'teacher:x'", "not an option's path"]),
    ("data..root=x", ["'data..root'", "not an option's path"]),
    ("“seed=1”", ["'“seed'", "not an option's path"]),
    ("trainer.lr=\u22121", ["at '\u2212'", "trainer.lr is a number"]),
    ("seed=1,", ["'seed=1,'", "seed is an integer"]),
    ("seed==1", ["'seed==1'", "seed is an integer"]),
    ("trainer.lr=0,5", ["'trainer.lr=0,5'", "-m"]),
    ("student={name:", ["student is a name or {name"]),
    ("student=resnet8,", ["student is a name or {name"]),
    ("+mine.path=my photos (1)", ["\"+mine.path='my photos (1)'\""]),
    ("results=${x}", ["results", "'x' not found"]),
    ("results=${results}", ["results", "Recursive"]),
    ("results=${oc.env:NOT_THERE}", ["results", "NOT_THERE"]),
    ("hydra/job_logging=default", ["'hydra/job_logging=default'", "launcher and sweeper"]),
    ("hydra/hydra_logging=default", ["'hydra/hydra_logging=default'"]),
    ("hydra.verbose=true", ["'hydra.verbose=true'"]),
    ("hydra.output_subdir=x", ["'hydra.output_subdir=x'"]),
    ("+hydra.mine=1", ["'+hydra.mine=1'"]),
    ("hydra/launcher=basic", ["'hydra/launcher=basic'", "run -m"]),
]


@pytest.mark.parametrize(("word", "culprits"), WRONG, ids=[word for word, _ in WRONG])
def test_what_cannot_be_read_is_told_without_words_of_grammars(folder: Path, word: str, culprits: list[str]) -> None:
    message = answer([word])
    assert all(culprit in message for culprit in culprits), message
    assert not any(term in message for term in ("Lexer", "mismatched input", "viable", "EOF"))
    assert "\n" not in message


def test_a_word_that_exists_is_a_name_whatever_is_in_it() -> None:
    words = ["runs", "tau=0.7", "data.root=x", "~data"]
    assert split_words(words) == (["runs"], ["tau=0.7", "data.root=x", "~data"])
    assert split_words(words, {"tau=0.7"}.__contains__) == (["runs", "tau=0.7"], ["data.root=x", "~data"])
