"""The site of the documentation: `python -m sphinx -W docs site`."""

import sys
from importlib.metadata import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "mahsm"
author = "the authors of mahsm"
copyright = "the authors of mahsm"
version = release = metadata("mahsm")["Version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_llm.txt",
    "names",
]

# Markdown
myst_enable_extensions = ["colon_fence", "smartquotes"]
myst_heading_anchors = 3

# Docstrings are Google's. What stands in single backticks is a name where there is one, and code elsewhere.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
maximum_signature_line_length = 88
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# Python's names lead to its documentation, where Debian's python3-doc has put its inventory. The other
# packages' inventories can only be had from their sites, which a build does not ask.
PYTHON = Path("/usr/share/doc/python3/html/objects.inv")
intersphinx_mapping = {"python": ("https://docs.python.org/3", str(PYTHON))} if PYTHON.exists() else {}
nitpicky = True

# Copies for those who read with a model: a Markdown file beside each page, and llms.txt, which lists them.
llms_txt_description = metadata("mahsm")["Summary"]
llms_txt_suffix_mode = "replace"
llms_txt_nested_enabled = False

# The page
html_theme = "furo"
html_title = "mahsm"
html_static_path = ["_static"]
html_favicon = "_static/mark.svg"
html_copy_source = True
copybutton_exclude = ".linenos, .gp, .go"
