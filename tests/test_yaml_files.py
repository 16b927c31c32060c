"""YAML files that are beyond all measure are refused before anything of them is built."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graphkd import UserError
from graphkd.run.folder import read_config
from graphkd.yaml_files import read_yaml, yaml_text


def laughs(levels: int, each: int = 9) -> str:
    """A list of lists of lists ...: a few hundred bytes for `each` ** `levels` values."""
    lines = [f"x0: &x0 [{', '.join(['lol'] * each)}]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * each)}]" for n in range(1, levels)]
    return "\n".join(lines)


BAD = {
    "a billion laughs": (laughs(10), "line 6: more than 100000 values"),
    "merged laughs": (laughs(7) + "\nlast: {<<: {y: *x6}}", "more than 100000 values"),
    "an alias to itself": ("k: &a [*a]", "line 1: *a stands for itself"),
    "an alias to its parent": ("&p\nname: knn\nk: {x: {y: *p}}", "line 3: *p stands for itself"),
    "deep blocks": ("\n".join(f"{' ' * n}x:" for n in range(2000)), "line 51: nested more than 50 deep"),
    "deep lists": (f"k: {'[' * 2000}{']' * 2000}", "cannot be read as YAML"),
    "no YAML": ("k: [1", "cannot be read as YAML"),
    "a date that cannot be": ("k: 2001-13-45", "cannot be read as YAML"),
    "a Python object": ("k: !!python/object:os.system x", "cannot be read as YAML"),
    "many values": (f"k: [{'1, ' * 100_001}]", "more than 100000 values"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_beyond_all_measure_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    path = tmp_path / "config.yaml"
    path.write_text(content)
    for reader in (read_yaml, read_config):
        with pytest.raises(UserError) as raised:
            reader(path)
        assert str(path) in str(raised.value)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_file_that_is_too_large_or_no_text_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="larger than 4 MiB"):
        read_yaml(path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="UnicodeDecodeError"):
        read_yaml(path)
    with pytest.raises(UserError, match="nowhere"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_aliases_in_measure_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(laughs(3, each=3))
    found = read_yaml(path)
    assert found["x2"] == [[["lol"] * 3] * 3] * 3


LEAVES = st.none() | st.booleans() | st.integers() | st.text("ab*& -")


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=20))
def test_what_is_no_bomb_is_read_as_it_is(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_text(yaml.safe_dump(value))
        assert read_yaml(path) == value
        assert yaml_text(path) == path.read_text()
