"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

project, author = "graphkd", "The graphkd developers"
version = release = installed_version("graphkd")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "graphkd"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_copyright = False

myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook keeps its outputs; tests/test_docs.py executes it

default_role = "py:obj"  # docstrings put names between single backticks
autoclass_content = "both"  # the options of a part are in its constructor
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
toc_object_entries = False  # an entry for each of a thousand names makes every page large

API = {
    "graphkd": "The library's face",
    "graphkd.batch": "What flows through a step",
    "graphkd.graph": "Graphs",
    "graphkd.builder": "Graph builders",
    "graphkd.gnn": "Graph encoders",
    "graphkd.objective": "Objectives",
    "graphkd.relation": "Relations",
    "graphkd.discrepancy": "Discrepancies",
    "graphkd.contrast": "Contrast: banks, negatives, losses",
    "graphkd.model": "Networks",
    "graphkd.data": "Data sets",
    "graphkd.engine": "Training",
    "graphkd.report": "Reports",
    "graphkd.registry": "Registries",
}
"""Modules and packages, with the titles of their pages."""
FOLDER = Path(__file__).parent / "api"


def write_api_pages(app: Sphinx) -> None:
    """Write a page for each module or package, with the docstrings of all its modules, and an index."""
    pages = {name.rpartition(".")[2]: api_page(name, title) for name, title in API.items()}
    names = "\n".join(pages)
    pages["index"] = f"# API reference\n\nFrom the docstrings.\n\n```{{toctree}}\n{names}\n```\n"
    FOLDER.mkdir(exist_ok=True)
    for page in FOLDER.glob("*.md"):
        if page.stem not in pages:
            page.unlink()
    for name, text in pages.items():
        page = FOLDER / f"{name}.md"
        if not page.exists() or page.read_text() != text:  # what has not changed is not built again
            page.write_text(text)


def api_page(name: str, title: str) -> str:
    """Return the page of a module, or of a package with a section for each of its modules."""
    module = importlib.import_module(name)
    if name == "graphkd":
        return f"# {title}\n\n{directive('automodule', name, imported=True)}"
    if not hasattr(module, "__path__"):
        return f"# {title}\n\n{directive('automodule', name)}"
    sections = [
        f"## {each.name}\n\n{directive('automodule', f'{name}.{each.name}')}"
        for each in pkgutil.iter_modules(module.__path__)
    ]
    return f"# {title}\n\n{module.__doc__}\n\n" + "\n".join(sections)


def directive(kind: str, name: str, imported: bool = False) -> str:
    """Return a directive of autodoc inside a Markdown page."""
    options = "   :imported-members:\n" if imported else ""
    return f"```{{eval-rst}}\n.. {kind}:: {name}\n{options}```\n"


def escape(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Show formulas in docstrings as they are: |x| is no substitution, and * no emphasis."""
    lines[:] = [line.replace("|", r"\|").replace("*", r"\*") for line in lines]
    if what in ("attribute", "data", "property"):
        plain[name] = lines.copy()


def keep_colons(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Undo napoleon's reading of an attribute's docstring, where it takes all before a colon for a type."""
    if what in ("attribute", "data", "property"):
        lines[:] = plain.pop(name, lines)


plain: dict[str, list[str]] = {}
"""Docstrings of attributes between the two hooks, before and after napoleon's."""


def setup(app: Sphinx) -> None:
    """Register the hooks with Sphinx."""
    app.connect("builder-inited", write_api_pages)
    app.connect("autodoc-process-docstring", escape, priority=400)
    app.connect("autodoc-process-docstring", keep_colons, priority=600)
