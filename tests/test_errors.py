"""How messages show what a user gave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkd.errors import UserError, brief, did_you_mean, one_of, some

NEAR = [
    ("knnn", "knn"), ("rum", "run"), ("width", "widths"), ("taw", "tau"), ("kk", "k"), ("sede", "seed"),
    ("defualt", "default"), ("temprature", "temperature"), ("batchsize", "batch_size"), ("batch-size", "batch_size"),
    ("num_epochs", "epochs"), ("root_dir", "root"), ("ResNet8", "resnet8"), ("optimiser", "optimizer"),
    ("temp", "temperature"), ("decay", "weight_decay"), ("val", "val_fraction"), ("cifar", "cifar10"),
]  # fmt: skip
FAR = [
    ("rand_augment", "name"), ("logger", "lr"), ("mutual_knn", "bank_knn"), ("transformer", "tag"), ("mixup", "epochs"),
    ("nope", "hops"), ("dropout", "tau"), ("data", "tau"), ("wandb", "bank"), ("frobnicate", "force"), ("kl", "kd"),
    ("scheduler", "smoothing"), ("warmup", "momentum"), ("seed", "lr"), ("at", "tag"), ("on", "momentum"),
]  # fmt: skip


@given(
    st.recursive(
        st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_is_shown_in_one_short_line(value: Any) -> None:
    shown = brief(value)
    assert len(shown) <= 120
    assert shown.isprintable()


@pytest.mark.parametrize("value", [10**5000, "x" * 10**6, list(range(10**6))], ids=["digits", "text", "list"])
def test_what_is_long_is_shown_shortly(value: Any) -> None:
    assert len(brief(value)) <= 120


def test_what_is_deep_is_shown_shortly() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert len(brief(value)) <= 120
    while value:  # else Python takes it apart by recursion
        value = value.pop()


@pytest.mark.parametrize(("name", "meant"), NEAR)
def test_a_near_word_is_offered(name: str, meant: str) -> None:
    assert did_you_mean(name, [meant, "something_else"]) == f"; did you mean '{meant}'?"


@pytest.mark.parametrize(("name", "known"), FAR)
def test_a_far_word_is_not_offered(name: str, known: str) -> None:
    assert did_you_mean(name, [known]) == ""


def test_of_many_names_some_are_shown() -> None:
    assert some(["b", "a"]) == "a, b"
    assert some([str(n) for n in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"


def test_one_of_the_known_names_passes_and_another_is_told_with_all_choices() -> None:
    assert one_of("knn", ["knn", "random"], "there is no builder") == "knn"
    with pytest.raises(UserError) as raised:
        one_of("kn", ["random", "knn"], "there is no builder")
    assert str(raised.value) == "there is no builder 'kn'; did you mean 'knn'? (choices: knn, random)"
    with pytest.raises(UserError, match=r"^there is no builder 'x' \(choices: none\)$"):
        one_of("x", [], "there is no builder")
