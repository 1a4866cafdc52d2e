"""A report in sections: a plan that a person accepts, sections researched by one `Send` each, then written by
another."""

import operator
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import thread


class Section(BaseModel):
    name: str
    research: bool
    text: str = ""


class Report(TypedDict):
    topic: str
    feedback: Annotated[list[str], operator.add]
    sections: list[Section]
    completed: Annotated[list[Section], operator.add]
    sources: Annotated[str, operator.add]
    context: str
    report: str


class SectionState(TypedDict):
    topic: str
    section: Section
    tries: int
    pages: str
    context: str
    completed: list[Section]
    sources: str


class SectionOutput(TypedDict):
    completed: list[Section]
    sources: str


class Work:
    """What the nodes do, which both machines share; it counts what is done."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.done: Counter[str] = Counter()
        self.breaks = ""

    async def plan(self, state: Report) -> dict[str, Any]:
        self.done["plan"] += 1
        more = [word.title() for word in state.get("feedback", [])]
        sections = [Section(name=name.strip("*"), research="*" in name) for name in (*self.names, *more)]
        return {"sections": sections}

    async def search(self, state: SectionState) -> dict[str, Any]:
        name = state["section"].name
        self.done[f"search {name}"] += 1
        if name == self.breaks:
            self.breaks = ""
            raise ConnectionError(name)
        return {"pages": f"{name} page {state.get('tries', 0)}", "tries": state.get("tries", 0) + 1}

    async def grade(self, state: SectionState) -> Command[Literal["search", "__end__"]]:
        section = state["section"]
        self.done[f"grade {section.name}"] += 1
        if state["tries"] < 2:
            return Command(goto="search")
        written = section.model_copy(update={"text": f"{section.name} by {state['pages']}"})
        return Command(goto=END, update={"completed": [written], "sources": f"[{state['pages']}]"})

    def section(self) -> Any:
        builder = StateGraph(SectionState, output_schema=SectionOutput)
        builder.add_node("search", self.search)
        builder.add_node("grade", self.grade)
        builder.add_edge(START, "search")
        builder.add_edge("search", "grade")
        return builder.compile(name="section")

    async def gathered(self, state: Report) -> dict[str, Any]:
        return {"context": " + ".join(section.text for section in state["completed"])}

    async def write(self, state: SectionState) -> dict[str, Any]:
        section = state["section"]
        self.done[f"write {section.name}"] += 1
        return {"completed": [section.model_copy(update={"text": f"{section.name} on ({state['context']})"})]}

    async def compile(self, state: Report) -> dict[str, Any]:
        texts = {section.name: section.text for section in state["completed"]}
        return {"report": "\n".join(texts[section.name] for section in state["sections"])}


def asked(state: Report) -> Any:
    return interrupt("Is this the plan? " + ", ".join(section.name for section in state["sections"]))


def by_send(work: Work) -> StateGraph[Any, Any, Any, Any]:
    async def feedback(state: Report) -> Any:
        said = asked(state)
        if said is not True:
            return Command(goto="plan", update={"feedback": [said]})
        return Command(goto=[Send("section", {"section": one}) for one in state["sections"] if one.research])

    def rest(state: Report) -> list[Send]:
        return [
            Send("write", {"section": one, "context": state["context"]})
            for one in state["sections"]
            if not one.research
        ]

    builder = StateGraph(Report)
    builder.add_node("plan", work.plan)
    builder.add_node("feedback", feedback, destinations=("plan", "section"))
    builder.add_node("section", work.section())
    builder.add_node("gathered", work.gathered)
    builder.add_node("write", work.write)
    builder.add_node("compile", work.compile)
    for start, end in [
        (START, "plan"),
        ("plan", "feedback"),
        ("section", "gathered"),
        ("write", "compile"),
        ("compile", END),
    ]:
        builder.add_edge(start, end)
    builder.add_conditional_edges("gathered", rest, ["write"])
    return builder


def by_edge(work: Work) -> StateGraph[Any, Any, Any, Any]:
    async def feedback(state: Report) -> Command[Literal["plan", "section"]]:
        said = asked(state)
        return Command(goto="section") if said is True else Command(goto="plan", update={"feedback": [said]})

    section = vmap(
        work.section(),
        batch=lambda state: [one for one in state["sections"] if one.research],
        item_to_state=lambda section: {"section": section},
        out_key=["completed", "sources"],
        name="section",
    )
    rest = vmap(
        work.write,
        batch=lambda state: [one for one in state["sections"] if not one.research],
        item_to_state=lambda section: {"section": section},
        inherit=["context"],
        out_key=["completed"],
        name="write",
    )
    builder = StateGraph(Report)
    builder.add_node("plan", work.plan)
    builder.add_node("feedback", feedback)
    builder.add_node("gathered", work.gathered)
    builder.add_node("compile", work.compile)
    connect(builder, START, "plan", "feedback")
    return connect(builder, section, "gathered", rest, "compile", END)


BUILDERS = [by_send, by_edge]
GIVEN = {"topic": "power"}


@asynccontextmanager
async def saver_of(kind: str, path: Path) -> AsyncIterator[Any]:
    serde = JsonPlusSerializer(allowed_msgpack_modules=[Section])
    if kind == "memory":
        yield InMemorySaver(serde=serde)
    else:
        async with AsyncSqliteSaver.from_conn_string(str(path / kind)) as saver:
            saver.serde = serde
            yield saver


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
async def test_both_make_the_same_report(saver: str, tmp_path: Path) -> None:
    ends: list[Any] = []
    for build in BUILDERS:
        work = Work("Intro", "Wind*", "Sun*", "End")
        async with saver_of(saver, tmp_path) as checkpointer:
            graph, config = build(work).compile(checkpointer=checkpointer), thread(build.__name__)
            asks = [(await graph.ainvoke(GIVEN, config))["__interrupt__"][0].value]
            asks.append((await graph.ainvoke(Command(resume="tide*"), config))["__interrupt__"][0].value)
            ends.append((asks, await graph.ainvoke(Command(resume=True), config), work.done))
    assert ends[0] == ends[1]
    asks, state, done = ends[0]
    assert asks[1] == "Is this the plan? Intro, Wind, Sun, End, Tide"
    assert state["sources"] == "[Wind page 1][Sun page 1][Tide page 1]"
    assert state["report"].startswith(
        "Intro on (Wind by Wind page 1 + Sun by Sun page 1 + Tide by Tide page 1)\nWind by"
    )
    assert done["plan"] == 2
    assert done["search Wind"] == done["grade Tide"] == 2


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
async def test_a_section_that_fails_is_done_again_from_where_it_was(saver: str, tmp_path: Path) -> None:
    ends: list[Any] = []
    for build in BUILDERS:
        work = Work("Intro", "Wind*", "Sun*")
        work.breaks = "Sun"
        async with saver_of(saver, tmp_path) as checkpointer:
            graph, config = (
                build(work).compile(checkpointer=checkpointer),
                thread(build.__name__, max_concurrency=1),
            )
            await graph.ainvoke(GIVEN, config)
            with pytest.raises(ConnectionError, match="Sun"):
                await graph.ainvoke(Command(resume=True), config)
            ends.append((await graph.ainvoke(None, config), work.done))
    assert ends[0] == ends[1]
    assert ends[0][1]["search Wind"] == 2
    assert ends[0][1]["search Sun"] == 3


async def test_without_a_section_to_research_the_report_is_made_all_the_same() -> None:
    """No `Send` is the end of the graph, with no report."""
    reports: list[Any] = []
    for build in BUILDERS:
        graph = build(Work("Intro", "End")).compile(checkpointer=InMemorySaver())
        await graph.ainvoke(GIVEN, thread())
        reports.append((await graph.ainvoke(Command(resume=True), thread())).get("report"))
    assert reports == [None, "Intro on ()\nEnd on ()"]
