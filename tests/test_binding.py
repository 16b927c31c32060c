"""Options against the signature of the constructor that takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphkd.binding import bind, convert, describe, flat, options_of
from graphkd.errors import UserError, brief


@dataclass(frozen=True)
class Group:
    kind: Literal["full", "queue"] = "full"
    length: int | None = None


class Part:
    def __init__(
        self, data: str, k: int = 8, rate: float = 0.5, flip: bool = False, mode: Literal["a", "b"] = "a",
        sizes: tuple[int, ...] = (1, 2), group: Group = Group(),
    ) -> None:  # fmt: skip
        self.options = {
            "data": data, "k": k, "rate": rate, "flip": flip, "mode": mode, "sizes": sizes, "group": group
        }  # fmt: skip


class Flat:
    @flat
    def __init__(self, data: str = "d", group: Group = Group(length=4), kind: str = "other", k: int = 8) -> None:
        self.options = (data, group, kind, k)


class Below(Flat):
    def __init__(self, length: int = 6) -> None:
        super().__init__("b", length=length)


def fails(value: Any, annotation: Any) -> str:
    with pytest.raises(UserError) as caught:
        convert(value, annotation, "the option")
    message = str(caught.value)
    assert message.startswith("the option ")
    assert "\n" not in message
    return message


FITTING: list[tuple[Any, Any, Any]] = [
    (3, int, 3),
    (3, float, 3.0),
    (2.5, float, 2.5),
    (np.int64(3), int, 3),
    (np.uint8(3), int | None, 3),
    (np.int32(3), float, 3.0),
    (np.float32(0.5), float, 0.5),
    ([np.int64(1)], list[int], (1,)),
    (True, bool, True),
    ("knn", str, "knn"),
    ("b", Literal["a", "b"], "b"),
    (2, Literal[1, 2], 2),
    (None, Optional[int], None),  # noqa: UP045 (the old forms are annotations too)
    (4, Union[int, None], 4),  # noqa: UP007
    (None, int | None, None),
    (4, float | None, 4.0),
    ("x", int | str, "x"),
    ([1, 2], list[int], (1, 2)),
    ((1, 2), list[int], (1, 2)),
    ([1, 2.5], tuple[float, ...], (1.0, 2.5)),
    ([3, 4], tuple[int, int], (3, 4)),
    ([], Sequence[str], ()),
    ([1, None], list[int | None], (1, None)),
    ([1, "a"], list[Union[int, str]], (1, "a")),  # noqa: UP007
    ([[1], [2, 3]], list[list[int]], ((1,), (2, 3))),
    ("all", Literal["all"] | list[int], "all"),
    ({"a": 1}, Mapping[str, Any], {"a": 1}),
    ({"a": 1}, dict[str, int], {"a": 1}),
    ({"kind": "queue", "length": 5}, Group, Group("queue", 5)),
    (Group(), Group, Group()),
    ({}, Group | None, Group()),
    ([1, "anything"], Any, [1, "anything"]),
]


@pytest.mark.parametrize(("value", "annotation", "expected"), FITTING, ids=str)
def test_a_fitting_value_is_converted(value: Any, annotation: Any, expected: Any) -> None:
    found = convert(value, annotation, "the option")
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("value", "annotation", "words"),
    [
        (True, int, "an integer"),
        (2.0, int, "an integer"),
        ("3", int, "an integer"),
        (np.float64(2), int, "an integer"),
        (np.bool_(True), int, "an integer"),
        (np.bool_(True), float, "a number"),
        (True, float, "a number"),
        (10**400, float, "a number"),
        ("1e-3", float, "a number"),
        (None, float, "a number"),
        (1, bool, "true or false"),
        ("true", bool, "true or false"),
        (1, str, "text"),
        ("c", Literal["a", "b"], "one of a, b"),
        (True, Literal[1, 2], "one of 1, 2"),
        ("x", int | None, "an integer or null"),
        (3, list[int], "a list (an integer each)"),
        ("abc", list[str], "a list (text each)"),
        ([1, True], list[int], "a list (an integer each)"),
        ([1, "a"], list[int | None], "a list (an integer or null each)"),
        ([1, 2, 3], tuple[int, int], "a list of 2 (an integer each)"),
        ([1], Mapping[str, Any], "a mapping"),
        (5, Group, "a mapping"),
        ("full", Group | None, "a mapping or null"),
    ],
    ids=str,
)
def test_a_misfit_is_refused_in_the_users_words(value: Any, annotation: Any, words: str) -> None:
    assert fails(value, annotation) == f"the option is {brief(value)}, but must be {words}"


@given(st.integers() | st.floats(allow_nan=False))
def test_a_number_keeps_its_value_as_a_float(number: float) -> None:
    found = convert(number, float, "the option")
    assert type(found) is float
    assert found == float(number)


@given(st.lists(st.integers() | st.booleans() | st.floats() | st.text() | st.none()))
def test_a_list_fits_exactly_if_all_its_items_do(items: list[Any]) -> None:
    if all(type(item) is int for item in items):
        assert convert(items, list[int], "the option") == tuple(items)
    else:
        fails(items, list[int])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
)
def test_whatever_a_config_holds_is_taken_or_refused(value: Any) -> None:
    for _, annotation, _ in FITTING:
        try:
            convert(value, annotation, "the option")
        except UserError as error:
            assert str(error).startswith("the option")  # noqa: PT017


annotations = st.recursive(
    st.sampled_from([int, float, bool, str, type(None), Any, Group, Literal["a", 2], Mapping[str, Any]]),
    lambda inner: (
        inner.map(lambda item: list[item])  # type: ignore[valid-type]
        | inner.map(lambda item: tuple[item, ...])  # type: ignore[valid-type]
        | inner.map(lambda item: Optional[item])  # noqa: UP045
        | st.tuples(inner, inner).map(lambda pair: Union[pair])  # noqa: UP007
        | st.tuples(inner, inner).map(lambda pair: tuple[pair])  # type: ignore[valid-type]
    ),
    max_leaves=4,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["a", "full", 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["kind", "length"]) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(value=anything, annotation=annotations)
def test_any_value_for_any_annotation_is_taken_or_refused_in_one_line(value: Any, annotation: Any) -> None:
    reason = ""
    try:
        convert(value, annotation, "the option")
    except UserError as error:
        reason = str(error)
    assert len(reason.splitlines()) <= 1


@settings(max_examples=40)
@given(st.dictionaries(st.text() | st.sampled_from(list(options_of(Part))) | st.integers(), anything, max_size=4))
def test_any_options_are_bound_or_refused_in_one_line(options: dict[Any, Any]) -> None:
    reason = ""
    try:
        bind(options, options_of(Part), "part")
    except UserError as error:
        reason = str(error)
    assert len(reason.splitlines()) <= 1


def test_options_are_read_off_the_signature() -> None:
    options = options_of(Part, preset={"k": 5}, runtime={"data"})
    assert list(options) == ["k", "rate", "flip", "mode", "sizes", "group"]
    assert options["k"].default == 5
    assert options["rate"].annotation is float
    assert options_of(Part)["data"].required
    assert not options["k"].required


def test_a_function_has_options_too() -> None:
    def build(width: int = 3) -> int:
        return width

    assert options_of(build)["width"].default == 3


def test_the_fields_of_a_group_are_options_of_a_flat_constructor() -> None:
    options = options_of(Flat)
    assert {name: option.default for name, option in options.items()} == {
        "data": "d",
        "length": 4,
        "kind": "other",
        "k": 8,
    }
    assert options["length"].annotation == int | None
    bound = bind({"length": 4, "k": 2}, options, "part")
    assert bound.given == {"k": 2}
    assert Flat(**bound.all).options == Flat("d", 4, "other", 2).options == ("d", Group(length=4), "other", 2)
    assert Flat().options == ("d", Group(length=4), "other", 8)
    assert Below().options == ("b", Group(length=6), "other", 8)
    with pytest.raises(TypeError, match="unexpected keyword argument 'group'"):
        Flat(group=Group())


def test_all_has_every_option_and_given_what_differs() -> None:
    bound = bind({"data": "digits", "k": 8, "rate": 1, "group": {"length": None}}, options_of(Part), "part")
    assert bound.all == Part("digits", rate=1.0).options
    assert bound.given == {"data": "digits", "rate": 1.0}


@given(k=st.integers(), rate=st.floats(allow_nan=False), sizes=st.lists(st.integers()), flip=st.booleans())
def test_given_options_and_defaults_make_all(k: int, rate: float, sizes: list[int], flip: bool) -> None:
    asked = {"data": "d", "k": k, "rate": rate, "sizes": sizes, "flip": flip}
    known = options_of(Part)
    bound = bind(asked, known, "part")
    assert bound.all == {**{name: option.default for name, option in known.items()}, **bound.given}
    assert bound.all == {**bound.all, **asked, "sizes": tuple(sizes)}
    assert Part(**bound.all).options == bound.all
    assert bind(bound.given, known, "part") == bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"data": "d", "rat": 1},
            "part 'p' has no option 'rat'; did you mean 'rate'? (its options: data, flip, group, k, mode, rate, sizes)",
        ),
        ({"data": "d", "a\nb": 1}, r"part 'p' has no option 'a\nb' (its options: "),
        ({"data": "d", "zzzzzz": 1}, "part 'p' has no option 'zzzzzz' (its options: "),
        ({"k": 3}, "part 'p' needs the option 'data'"),
        ({True: 3}, 'part \'p\': YAML reads a plain on or off as true or false; write "on" or "off"'),
        ({"data": "d", "k": "x"}, "part 'p': option 'k' is 'x', but must be an integer"),
        (
            {"data": "d", "group": {"knd": 1}},
            "part 'p': option 'group' has no option 'knd'; did you mean 'kind'? (its options: kind, length)",
        ),
        (
            {"data": "d", "group": {"kind": 1}},
            "part 'p': option 'group': option 'kind' is 1, but must be one of full, queue",
        ),
        ({"data": "d", "group": [1]}, "part 'p': option 'group' is [1], but must be a mapping"),
    ],
)
def test_a_mistake_names_part_option_and_remedy(options: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        bind(options, options_of(Part), "part 'p'")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_part_without_options_says_so() -> None:
    def build() -> None: ...

    with pytest.raises(UserError, match=r"has no option 'k' \(its options: none\)"):
        bind({"k": 1}, options_of(build), "part")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (tuple[float, ...], "a list (a number each)"),
        (Literal["x", "y"] | None, "one of x, y or null"),
        (list[Literal["x", "y"]], "a list (one of x, y each)"),
        (Group, "a mapping"),
    ],
)
def test_annotations_in_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words
