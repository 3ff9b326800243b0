"""How Sphinx builds these pages: ``sphinx-build -W -n docs docs/_build``, without a network. Not here: what the pages say."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import staircase  # noqa: E402

import made_fast  # noqa: E402

mpl.use("agg")

project, author, version = "made_fast", "the authors of made_fast", made_fast.__version__
release = version
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build", "_templates", "tutorials", "generated/scripts"]
root_doc = "index"
templates_path = ["_templates"]

# Pages are Markdown; docstrings and tutorials are reStructuredText.
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# Tutorials are scripts. They run while the pages are built, in the order of their numbers, and a failure ends the build. The
# files that they write come to stand beside copies of them.
SCRIPTS = HERE / "generated" / "scripts"
shutil.copytree(HERE / "tutorials", SCRIPTS, ignore=shutil.ignore_patterns(".*", "ruff.toml"), dirs_exist_ok=True)
sphinx_gallery_conf = {
    "examples_dirs": ["generated/scripts"],
    "gallery_dirs": ["generated/tutorials"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "plot_gallery": True,
    "image_srcset": ["2x"],
}

# Every public method stands on the page of its class. Types in docstrings are prose, "(n, D) of 0/1", and no links.
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "made_fast"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "article_header_start": ["breadcrumbs"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"index": [], "made": [], "install": [], "develop": [], "changelog": []}
copyright = "the authors of made_fast; MIT license"  # noqa: A001  # Sphinx calls it so

SKIPPED = {"get_metadata_routing", "get_params", "set_params", "set_output", "fit_transform", "fit_predict"}


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what comes from scikit-learn, whose docstrings link to its own pages."""
    return True if name in SKIPPED or (name.startswith("set_") and name.endswith("_request")) else None


def find(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Find what a docstring calls by its last names only, ``Density.impute``, if exactly one object has them."""
    if node.get("refdomain") != "py":
        return None
    wanted = "." + node["reftarget"]
    objects = env.get_domain("py").objects.items()
    found = {entry.node_id: (name, entry) for name, entry in objects if f".{name}".endswith(wanted)}
    if len(found) != 1:
        return None
    ((name, entry),) = found.values()
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)


def draw(app: Any) -> None:
    """Draw the picture of the masks, for a light and for a dark page."""
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    for shade in ("light", "dark"):
        staircase.draw(folder / f"staircase-{shade}.svg", dark=shade == "dark")


def setup(app: Any) -> None:
    """Connect the functions above."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    app.connect("builder-inited", draw, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", find)
