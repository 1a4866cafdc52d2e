"""Names for `mahsm.context` and the `mahsm` command, which are not public."""

from mahsm._context import document as document
from mahsm._context import environment as environment
from mahsm._context import files as files
from mahsm._context import guard as guard
from mahsm._context import here as here
from mahsm._context.credentials import credential_of as credential_of
from mahsm._context.credentials import field_of as field_of
from mahsm._context.credentials import source_of as source_of
from mahsm._context.layer import Layer as Layer
from mahsm._context.saving import save as save
from mahsm._context.saving import split as split
from mahsm._context.secret import Secret as Secret
from mahsm._context.secret import is_secret as is_secret
from mahsm._context.settings import config_of as config_of
from mahsm._context.values import MISSING as MISSING
from mahsm._context.values import checked as checked
from mahsm._context.values import checked_path as checked_path
from mahsm._context.values import dig as dig
from mahsm._context.values import dotted as dotted
from mahsm._context.values import laid_over as laid_over
from mahsm._context.values import leaves as leaves
from mahsm._context.values import nested as nested
from mahsm._context.values import without_hidden as without_hidden
from mahsm._context.writing import rewrite as rewrite

__all__ = [
    "MISSING",
    "Layer",
    "Secret",
    "checked",
    "checked_path",
    "config_of",
    "credential_of",
    "dig",
    "document",
    "dotted",
    "environment",
    "field_of",
    "files",
    "guard",
    "here",
    "is_secret",
    "laid_over",
    "leaves",
    "nested",
    "rewrite",
    "save",
    "source_of",
    "split",
    "without_hidden",
]
