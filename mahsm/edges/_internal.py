"""Exports of `mahsm.edges` for graphs, reducers, traces and programs."""

from mahsm.edges._parallel import Branches as Branches
from mahsm.edges._routed import Asked as Asked
from mahsm.edges._routed import Chooser as Chooser
from mahsm.edges._routed import Situation as Situation
from mahsm.edges._routed import Step as Step
from mahsm.edges._routed import routed as routed
from mahsm.edges._shared.attempts import AttemptRunner as AttemptRunner
from mahsm.edges._shared.call_spec import CallSpec as CallSpec
from mahsm.edges._shared.constructor import constructor as constructor
from mahsm.edges._shared.ends import Ends as Ends
from mahsm.edges._shared.items import Item as Item
from mahsm.edges._shared.items import current_item as current_item
from mahsm.edges._shared.reducer import Reducer as Reducer
from mahsm.edges._shared.reducer import streams_as as streams_as
from mahsm.edges._shared.run import EdgeRun as EdgeRun
from mahsm.edges._shared.session import Session as Session
from mahsm.edges._shared.session import session as session
from mahsm.edges._shared.tries import Tries as Tries

__all__ = [
    "Asked",
    "AttemptRunner",
    "Branches",
    "CallSpec",
    "Chooser",
    "EdgeRun",
    "Ends",
    "Item",
    "Reducer",
    "Session",
    "Situation",
    "Step",
    "Tries",
    "constructor",
    "current_item",
    "routed",
    "session",
    "streams_as",
]
