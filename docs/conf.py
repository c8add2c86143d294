"""Sphinx: the guide in Markdown (MyST), the reference from the docstrings, furo's look."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pagescan.cli import COMMANDS, load

_project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = "pagescan"
author = "pagescan contributors"
project_copyright = "pagescan contributors"
release = version = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# What pagescan.testing needs, and a reader of its documentation does not.
autodoc_mock_imports = ["hypothesis", "pytest"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"pagescan {release}"
html_copy_source = False
# The pages work from a folder, without a network: no web fonts, no remote script.
html_show_sphinx = False

# One manual page a command, from the page of the same name: pagescan-record(1).
man_pages = [
    (f"commands/{name}", f"pagescan-{name}", (command.__doc__ or "").split("\n")[0].rstrip("."), author, 1)
    for name, command in load(COMMANDS).items()
    if (Path(__file__).parent / "commands" / f"{name}.md").exists()
]
