"""Names in docstrings and signatures as links.

Docstrings say `vmap`, and signatures name classes by the module that defines them. A name of the package
leads to its entry. Other names stay code: those of packages without an inventory, type variables, arguments.
Only a public name of the package that has no entry is an error.
"""

import re
import sys
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def _is_public(target: str) -> bool:
    """Whether this is the name of something public in the package, which has an entry."""
    room, _, name = target.rpartition(".")
    exports = getattr(sys.modules.get(room), "__all__", ()) if room.startswith("mahsm") else ()
    return name in exports and target not in sys.modules


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> Any:
    """The entry of a name of the package, or the name as code."""
    if node["refdomain"] != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    domain = env.get_domain("py")
    for name in (target, f"mahsm.{target}"):
        found = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
        if found is not None:
            return found
    return None if _is_public(target) else content


def separate(app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Let a name be followed by letters, as in Markdown; for reStructuredText `Send`s is no name."""
    lines[:] = [re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line) for line in lines]


def plain_signatures(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Take the links out of the signatures of a Markdown copy, where they would be longer than the text."""
    for signature in tree.findall(desc_signature):
        signature.children = [nodes.literal(text=signature.astext())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Look names up, after the inventories of other packages."""
    app.connect("missing-reference", resolve, priority=900)
    app.connect("autodoc-process-docstring", separate)
    if app.tags.has("sphinx_llm_markdown"):
        app.connect("doctree-resolved", plain_signatures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
