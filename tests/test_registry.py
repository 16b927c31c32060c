"""The registry: names, choices, duplicates, files found by themselves, and parts from outside."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphkd.errors import UserError
from graphkd.registry import Registry, import_plugins

PLUGIN = "a plug-in's: plugins=[MODULE]"
MODULE = """
from {package} import SHAPES

@SHAPES.register("{name}")
class {kind}:
    '''A {name}.

    More about it.
    '''
    def __init__(self, width: int, height: int = 2, scale: float = 1.0) -> None:
        self.size = width, height, scale
"""
Package = Callable[..., Registry[Any]]
numbers = itertools.count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes a package with a file for each source, given by name, and returns its registry SHAPES."""

    def make(**sources: str) -> Registry[Any]:
        name = f"shapes{next(numbers)}"
        folder = tmp_path / name
        folder.mkdir()
        registry = f"SHAPES = Registry('shape', '{name}', runtime={{'width', 'model'}})"
        (folder / "__init__.py").write_text(f"from graphkd.registry import Registry\n{registry}\n")
        for module, source in sources.items():
            (folder / f"{module}.py").write_text(source.replace("PACKAGE", name))
        monkeypatch.syspath_prepend(str(tmp_path))
        shapes: Registry[Any] = importlib.import_module(name).SHAPES
        return shapes

    return make


def source(name: str, kind: str = "Shape") -> str:
    return MODULE.format(package="PACKAGE", name=name, kind=kind)


def test_files_in_the_folder_are_found_at_the_first_look_up(package: Package) -> None:
    shapes = package(circle=source("circle"), square=source("square"))
    assert f"{shapes._package}.circle" not in sys.modules
    assert shapes.names() == ["circle", "square"]
    assert shapes.get("circle").__name__ == "Shape"


def test_options_leave_out_what_comes_at_run_time(package: Package) -> None:
    shapes = package(circle=source("circle"))
    assert list(shapes.options("circle")) == ["height", "scale"]
    bound = shapes.bind("circle", {"height": 3, "scale": 1})
    assert bound.all == {"height": 3, "scale": 1.0}
    assert bound.given == {"height": 3}
    with pytest.raises(UserError, match="shape 'circle' has no option 'width'"):
        shapes.bind("circle", {"width": 3})
    assert shapes.summary("circle") == "A circle."


def test_build_takes_both_by_name_and_checks_them(package: Package) -> None:
    shapes = package(circle=source("circle"))
    assert shapes.build("circle", width=4, scale=2).size == (4, 2, 2.0)
    with pytest.raises(UserError, match="shape 'circle' needs the option 'width'"):
        shapes.build("circle")
    with pytest.raises(UserError, match=r"shape 'circle' has no option 'heigt'; did you mean 'height'\?"):
        shapes.build("circle", width=1, heigt=3)
    with pytest.raises(UserError, match="shape 'circle': option 'height' is 'x', but must be an integer"):
        shapes.build("circle", width=1, height="x")


@pytest.mark.parametrize("look_up", ["get", "options", "summary", "build"])
def test_a_miss_lists_the_choices_and_the_closest(package: Package, look_up: str) -> None:
    shapes = package(circle=source("circle"), square=source("square"))
    with pytest.raises(UserError) as caught:
        getattr(shapes, look_up)("Cirle")
    assert str(caught.value) == f"there is no shape 'Cirle'; did you mean 'circle'? (choices: circle, square; {PLUGIN})"
    with pytest.raises(UserError, match=r"there is no shape 'xyz' \(choices: circle, square;"):
        getattr(shapes, look_up)("xyz")


def test_a_duplicate_names_both_classes(package: Package) -> None:
    shapes = package(a=source("circle", "Round"), b=source("circle", "Disc"))
    with pytest.raises(UserError) as caught:
        shapes.names()
    message = str(caught.value)
    assert message.startswith("two shapes are named 'circle': shapes")
    assert "a.Round and shapes" in message
    assert message.endswith("b.Disc")


def test_a_duplicate_from_outside_is_seen_before_any_look_up(package: Package) -> None:
    shapes = package(circle=source("circle"))
    with pytest.raises(UserError, match=r"circle\.Shape and .*test_registry\..*Mine"):

        @shapes.register("circle")
        class Mine: ...


def test_a_part_from_outside_stands_among_the_others(package: Package) -> None:
    shapes = package(circle=source("circle"))

    @shapes.register("mine")
    class Mine: ...

    assert shapes.names() == ["circle", "mine"]
    assert isinstance(shapes.build("mine"), Mine)


def test_a_preset_replaces_defaults_for_one_name(package: Package) -> None:
    shapes = package(circle=source("circle"))

    @shapes.register("tall", height=9)
    @shapes.register("flat", height=1)
    def build(width: int, height: int = 5) -> tuple[int, int]:
        """A rectangle."""
        return width, height

    assert shapes.build("tall", width=2) == (2, 9)
    assert shapes.build("flat", width=2) == (2, 1)
    assert shapes.build("flat", width=2, height=4) == (2, 4)
    assert shapes.get("tall")(width=3) == (3, 9)
    assert shapes.options("tall")["height"].default == 9
    assert shapes.bind("tall", {"height": 9}).given == {}
    assert shapes.bind("tall", {"height": 5}).given == {"height": 5}
    assert shapes.summary("flat") == "A rectangle."


FAMILY = """
from PACKAGE import SHAPES

@SHAPES.register_family("poly", sides=4)
class Poly:
    '''Any polygon: poly/NAME.'''
    def __init__(self, model: str, width: int, sides: int = 3) -> None:
        self.made_of = model, width, sides
"""


def test_a_family_has_every_name_below_its_own(package: Package) -> None:
    shapes = package(circle=source("circle"), poly=FAMILY)
    assert shapes.names() == ["circle"]
    assert shapes.families() == ["poly"]
    for member in ("square", "any/thing.else"):
        assert shapes.build(f"poly/{member}", width=1).made_of == (member, 1, 4)
        assert shapes.get(f"poly/{member}")(width=1).made_of == (member, 1, 4)
    assert shapes.build("poly/square", width=1, sides=5).made_of == ("square", 1, 5)
    assert shapes.factory("poly/square").__name__ == "Poly"
    assert shapes.summary("poly/square") == "Any polygon: poly/NAME."


def test_the_members_name_is_no_option(package: Package) -> None:
    shapes = package(poly=FAMILY)
    assert list(shapes.options("poly/square")) == ["sides"]
    assert shapes.bind("poly/square", {"sides": 3}).given == {"sides": 3}
    with pytest.raises(UserError, match="shape 'poly/square' has no option 'model'"):
        shapes.bind("poly/square", {"model": "star"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("poyl/square", "; did you mean 'poly/square'?"),
        ("poly", "; did you mean 'poly/NAME'?"),
        ("poly/", "; did you mean 'poly/NAME'?"),
        ("Cirle", "; did you mean 'circle'?"),
        ("Cirle/x", "; did you mean 'circle'?"),
        ("", ""),
    ],
)
def test_a_miss_lists_the_families(package: Package, name: str, hint: str) -> None:
    shapes = package(circle=source("circle"), poly=FAMILY)
    with pytest.raises(UserError) as caught:
        shapes.get(name)
    assert str(caught.value) == f"there is no shape '{name}'{hint} (choices: circle, poly/NAME; {PLUGIN})"


def test_one_member_may_have_a_class_of_its_own(package: Package) -> None:
    shapes = package(poly=FAMILY, star=source("poly/star"))
    assert shapes.build("poly/star", width=1).size == (1, 2, 1.0)
    assert shapes.names() == ["poly/star"]


def test_a_second_family_of_a_name_is_refused(package: Package) -> None:
    shapes = package(a=FAMILY, b=FAMILY.replace("Poly", "Other"))
    with pytest.raises(UserError, match=r"^two shapes are named 'poly/': .*a\.Poly and .*b\.Other$"):
        shapes.families()


def test_a_file_that_fails_fails_every_look_up(package: Package) -> None:
    shapes = package(broken="raise RuntimeError('no')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            shapes.names()


def test_plugins_register_by_being_imported(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = package(circle=source("circle"))
    (tmp_path / "their_plugin.py").write_text(source("star").replace("PACKAGE", shapes._package))
    import_plugins(["their_plugin"])
    import_plugins(["their_plugin"])
    assert shapes.names() == ["circle", "star"]
    monkeypatch.delitem(sys.modules, "their_plugin")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no"),
        ("def (", "SyntaxError: invalid syntax"),
        ("import nowhere.to.be_found", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_plugin_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, cause: str
) -> None:
    name = f"failing_plugin{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError) as caught:
        import_plugins([name])
    assert str(caught.value).startswith(f"plugin '{name}' failed at import: {cause}")
    assert "\n" not in str(caught.value)
    assert "PYTHONPATH" not in str(caught.value), "the plug-in itself was found"


OF_A_FILE = "; write plugins=[no_such_plugin], with its folder on PYTHONPATH or the current one"


@pytest.mark.parametrize(("name", "fix"), [
    ("no_such_plugin", "; it must be in the current folder, on PYTHONPATH or installed"),
    ("no_such_plugin.parts", "; it must be in the current folder, on PYTHONPATH or installed"),
    ("no_such_plugin.py", OF_A_FILE),
    ("./folder/no_such_plugin.py", OF_A_FILE),
])  # fmt: skip
def test_a_plugin_that_does_not_exist_is_named_with_the_fix(name: str, fix: str) -> None:
    with pytest.raises(UserError, match=f"plugin '{name}' failed at import: (ModuleNotFound|Type)Error") as caught:
        import_plugins([name])
    assert str(caught.value).endswith(fix)


def test_a_users_mistake_inside_a_plugin_stays_as_it_is(package: Package, tmp_path: Path) -> None:
    shapes = package(circle=source("circle"))
    name = f"doubling_plugin{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(source("circle").replace("PACKAGE", shapes._package))
    with pytest.raises(UserError, match=r"^two shapes are named 'circle'"):
        import_plugins([name])


THEIRS = """
from circles import CIRCLES
from squares import SQUARES

@CIRCLES.register("theirs")
class Circle: ...

@SQUARES.register("theirs")
class Square: ...

def main() -> None:
    "The entry point's object, which stands behind all that is registered."
"""
LOOK_UP = """
from circles import CIRCLES
from squares import SQUARES
try:
    print(CIRCLES.names(), SQUARES.names())
except ValueError as error:
    print(type(error).__name__, error)
"""


def run_with_installed(folder: Path, content: str, point: str) -> str:
    """What LOOK_UP prints in a new process where a package with one entry point is installed."""
    for kind in ("circle", "square"):
        (folder / f"{kind}s").mkdir()
        registry = f"{kind.upper()}S = Registry('{kind}', '{kind}s')"
        (folder / f"{kind}s" / "__init__.py").write_text(f"from graphkd.registry import Registry\n{registry}\n")
    (folder / "their_package.py").write_text(content)
    information = folder / "their_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[graphkd.plugins]\ntheirs = {point}\n")
    paths = [str(folder), str(Path(__file__).resolve().parents[1])]
    code = f"import sys\nsys.path[:0] = {paths!r}\n{LOOK_UP}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.stdout


@pytest.mark.parametrize("point", ["their_package", "their_package:main"])
def test_an_installed_package_registers_by_its_entry_point(tmp_path: Path, point: str) -> None:
    assert run_with_installed(tmp_path, THEIRS, point) == "['theirs'] ['theirs']\n"


def test_an_installed_package_that_fails_is_named(tmp_path: Path) -> None:
    assert run_with_installed(tmp_path, "raise RuntimeError('no')", "their_package") == (
        "UserError the installed plugin 'theirs' (their_package) failed at import: RuntimeError: no\n"
    )


def test_a_plugin_that_exits_is_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_at_import.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="plugin 'exits_at_import' failed at import: SystemExit: 3"):
        import_plugins(["exits_at_import"])
