"""Sphinx's settings for the site: ``python -m sphinx -W --keep-going -b html docs build/site``."""

from __future__ import annotations

from largedrop import __version__

project = "largedrop"
author = "The largedrop developers"
release = version = __version__
html_title = f"largedrop {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False
