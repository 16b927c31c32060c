"""Who may import whom, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "binding": {"errors"},
    "registry": {"errors", "binding"},
    "batch": {"errors"},
    "identity": set(),
    "machine": set(),
    "files": {"errors"},
    "report": {"errors", "binding", "identity", "files", "yaml_files"},
    "ablation": {"errors", "binding"},
    "graph": {"errors", "batch", "registry"},
    "contrast": {"errors", "batch", "registry"},
    "relation": {"errors", "registry"},
    "discrepancy": {"errors", "registry"},
    "model": {"errors", "binding", "batch", "registry"},
    "data": {"errors", "binding", "batch", "registry", "files"},
    "builder": {"errors", "batch", "registry", "graph", "contrast"},
    "gnn": {"errors", "batch", "registry", "graph", "contrast"},
    "diagnostics": {"graph"},
}
"""What each module or package of graphkd may import of graphkd, beside itself."""
MAY_IMPORT["objective"] = {
    "errors", "batch", "registry", "graph", "contrast", "builder", "gnn", "relation", "discrepancy",
    "diagnostics",
}  # fmt: skip
MAY_IMPORT["engine"] = {*MAY_IMPORT["objective"], "binding", "objective", "model", "data", "files"}
MAY_IMPORT["yaml_files"] = {"errors", "files"}
MAY_IMPORT["logger"] = {"errors", "registry", "engine"}
MAY_IMPORT["run"] = {*MAY_IMPORT["engine"], "engine", "identity", "logger", "report", "yaml_files"}
MAY_IMPORT["show"] = {*MAY_IMPORT["run"], "run"}
MAY_IMPORT["bench"] = {*MAY_IMPORT["engine"], "engine", "machine"}
WITHOUT_TORCH = ["files", "report", "identity", "ablation", "errors", "binding", "registry"]
STANDARD_LIBRARY_ONLY = ["errors", "binding", "registry", "identity", "files"]
HYDRA_INTERNALS = "graphkd_cli.hydra_internals"
OF_THE_COMMAND_LINE = {"graphkd_cli", "hydra", "omegaconf", "rich"}


class Import(NamedTuple):
    """A name that is imported, and the module that it is from."""

    module: str
    name: str


def name_of(path: Path) -> str:
    """A file's module name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """Everything that a file imports, inside functions and for type checking too, and by importlib."""
    found: list[Import] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            found += [Import(str(node.module), f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                found.append(Import(str(name.value), str(name.value)))
    return found


MODULES = {name_of(path): path for path in sorted((ROOT / "graphkd").rglob("*.py"))}
CLI = {name_of(path): path for path in sorted((ROOT / "graphkd_cli").rglob("*.py"))}


def unit(name: str) -> str:
    """The part of graphkd that a module name belongs to; "" for the face, graphkd itself."""
    return name.partition(".")[2].partition(".")[0]


def top(found: Import) -> str:
    """The package that an import is from."""
    return found.module.partition(".")[0]


def own(path: Path) -> Iterator[tuple[str, Import]]:
    """Imports of graphkd's own parts, with the part."""
    for found in imports(path):
        if found.module == "graphkd":
            yield unit(found.name), found
        elif found.module.startswith("graphkd."):
            yield unit(found.module), found


def test_every_part_has_its_place() -> None:
    assert {unit(name) for name in MODULES} - {""} == set(MAY_IMPORT)


def test_the_directions_have_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [part for part, below in MAY_IMPORT.items() if part not in order and below <= set(order)]
        assert free, f"a circle among {set(MAY_IMPORT) - set(order)}"
        order += free


@pytest.mark.parametrize("module", [name for name in MODULES if unit(name)])
def test_parts_import_only_what_lies_below(module: str) -> None:
    allowed = MAY_IMPORT[unit(module)] | {unit(module)}
    wrong = [found.name for part, found in own(MODULES[module]) if part not in allowed]
    assert not wrong, f"{module} may import of graphkd {sorted(allowed)}, not {wrong}"


@pytest.mark.parametrize("module", [name for name in MODULES if unit(name) == "objective"])
def test_objectives_are_handed_builders_and_encoders_and_know_their_base_classes_only(module: str) -> None:
    allowed = {"graphkd.builder.GraphBuilder", "graphkd.gnn.GraphEncoder"}
    assert {found.name for part, found in own(MODULES[module]) if part in ("builder", "gnn")} <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_the_library_knows_no_command_line_and_prints_nothing(module: str) -> None:
    assert not {top(found) for found in imports(MODULES[module])} & OF_THE_COMMAND_LINE
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def module_imports(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which of the modules each imports, inside functions and for type checking too.

    A package's name in place of a module of it (`from package import name`) stands for its `__init__`.
    """
    return {
        name: {found.name if found.name in modules else found.module for found in imports(path)} & set(modules) - {name}
        for name, path in modules.items()
    }


def circles(graph: Mapping[str, Collection[str]]) -> set[frozenset[str]]:
    """Return the sets of modules of which each reaches each other."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = set(graph[left.pop()]) - seen
            seen |= new
            left += new
        return seen

    reached = {name: reach(name) for name in graph}
    return {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]
    }


def test_modules_import_each_other_in_no_circle() -> None:
    assert circles(module_imports({**MODULES, **CLI})) == set()


def test_a_circle_is_found_however_long() -> None:
    graph: dict[str, list[str]] = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"], "e": []}
    assert circles(graph) == {frozenset("abc")}
    assert circles({"a": ["b"], "b": []}) == set()


def test_one_module_imports_dgl() -> None:
    everything = {**MODULES, **CLI}
    importers = {name for name in everything if "dgl" in {top(found) for found in imports(everything[name])}}
    assert importers == {"graphkd.graph"}


def test_one_module_uses_what_is_private_of_hydra() -> None:
    importers = {name for name in CLI if any("._" in found.name for found in imports(CLI[name]))}
    assert importers == {HYDRA_INTERNALS}


@pytest.mark.parametrize("module", [name for name in CLI if name != HYDRA_INTERNALS])
def test_private_attributes_are_their_own_modules(module: str) -> None:
    tree = ast.parse(CLI[module].read_text())
    own_names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own_names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _of_self(node)}
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private <= own_names


def _of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@pytest.mark.parametrize("module", [name for name in MODULES if unit(name) in STANDARD_LIBRARY_ONLY])
def test_the_lowest_floor_needs_the_standard_library_alone(module: str) -> None:
    named = {top(found) for found in imports(MODULES[module])}
    assert named <= set(sys.stdlib_module_names) | {"graphkd"}


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_neither_torch_nor_dgl_comes_in_on_any_way(part: str) -> None:
    seen: set[str] = set()
    to_read = [name for name in MODULES if unit(name) == part]
    while to_read:
        name = to_read.pop()
        if name in seen:
            continue
        seen.add(name)
        for found in imports(MODULES[name]):
            assert top(found) not in ("torch", "torchvision", "dgl", "lightning_fabric"), name
            to_read += [module for module in (found.module, found.name) if module in MODULES and unit(module)]


def test_neither_torch_nor_dgl_is_loaded_in_fact() -> None:
    modules = [name for name in MODULES if unit(name) in WITHOUT_TORCH]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import graphkd, {', '.join(modules)}\n"
        "print([name for name in ('torch', 'dgl', 'pandas', 'hydra', 'rich', 'sklearn') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "[]\n", ran.stderr


def test_the_reading_of_imports_sees_them_all(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "import importlib\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from d import e\n"
        "class F:\n    def g(self):\n        try:\n            import h.i as j\n        except ImportError: pass\n"
        "k = importlib.import_module('l.m')\n"
    )
    named = {found.name for found in imports(file)}
    assert named == {"importlib", "typing.TYPE_CHECKING", "d.e", "h.i", "l.m"}
