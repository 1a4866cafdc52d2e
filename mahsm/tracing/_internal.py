"""Exports of `mahsm.tracing` for routers, which read choices and scores from Langfuse."""

from typing import TYPE_CHECKING

from mahsm.tracing import _api as api
from mahsm.tracing._backends import PREFIX as PREFIX
from mahsm.tracing._choices import CHOICE_ID as CHOICE_ID
from mahsm.tracing._setup import client_for as client_for

if TYPE_CHECKING:
    from langfuse import Langfuse as Langfuse

__all__ = ["CHOICE_ID", "PREFIX", "api", "client_for"]
