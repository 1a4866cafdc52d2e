"""Exports of `mahsm.tracing` for routers, which read choices and scores from Langfuse."""

from mahsm.tracing import _api as api
from mahsm.tracing._backends import PREFIX as PREFIX
from mahsm.tracing._choices import CHOICE_ID as CHOICE_ID
from mahsm.tracing._rewards import REWARD as REWARD
from mahsm.tracing._setup import client_for as client_for

__all__ = ["CHOICE_ID", "PREFIX", "REWARD", "api", "client_for"]
