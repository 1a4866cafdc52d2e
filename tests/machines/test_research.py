"""A deep-research team: a supervisor that hands topics to researchers, who call tools; by `gather` and with
`vmap`."""

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

import mahsm
from mahsm import vmap
from mahsm.testing import Reply
from tests.helpers import thread
from tests.machines.chat import Chat, plain, tool_calls


class Brief(BaseModel):
    """What is to be found out."""

    question: str


class Team(TypedDict):
    supervisor_messages: Annotated[list[AnyMessage], add_messages]
    brief: str
    rounds: int
    raw_notes: Annotated[list[str], operator.add]


class Report(MessagesState):
    brief: str
    raw_notes: Annotated[list[str], operator.add]
    report: str


class Research(TypedDict):
    researcher_messages: Annotated[list[AnyMessage], add_messages]
    topic: str
    raw_notes: Annotated[list[str], operator.add]


class Found(TypedDict):
    finding: str
    raw_notes: list[str]


class Setup(TypedDict, total=False):
    rounds: int


@tool
async def search(query: str) -> str:
    """Search."""
    await asyncio.sleep(0)
    return f"page on {query}"


def answer(messages: list[BaseMessage]) -> Reply | str:
    """What the models of the whole team say: each is known by what it is asked first."""
    task, last = messages[0].text, messages[-1]
    if task.startswith("scope"):
        return tool_calls(("Brief", {"question": "what of " + task.removeprefix("scope ")}))
    if task.startswith("lead"):
        rounds = sum(isinstance(message, AIMessage) for message in messages)
        topics = [["wind", "sun"], ["tide"]][rounds : rounds + 1]
        return tool_calls(*(("delegate", {"topic": topic}) for topic in topics[0])) if topics else "done"
    if task.startswith("study"):
        if isinstance(last, ToolMessage):
            return "studied"
        topic = task.removeprefix("study ")
        return tool_calls(("search", {"query": f"{topic} cost"}), ("search", {"query": f"{topic} yield"}))
    return f"summary of {last.text}"


class Machine:
    """The machine; `Gathers` and `Edges` say how several things are done at once."""

    def __init__(self, model: Chat) -> None:
        self.model = model
        self.researcher = self.research()
        self.prepare()

    def prepare(self) -> None: ...

    async def search_all(self, found: list[Any], config: RunnableConfig) -> list[str]:
        raise NotImplementedError

    async def research_all(self, topics: list[str], config: RunnableConfig) -> list[Found]:
        raise NotImplementedError

    def research(self) -> Any:
        async def researcher(state: Research) -> Command[Literal["tools", "compress"]]:
            said = await self.model.bind_tools([search]).ainvoke(state["researcher_messages"])
            return Command(
                goto="tools" if said.tool_calls else "compress", update={"researcher_messages": [said]}
            )

        async def tools(state: Research, config: RunnableConfig) -> Command[Literal["researcher"]]:
            asked = state["researcher_messages"][-1].tool_calls
            pages = await self.search_all(asked, config)
            told = [
                ToolMessage(page, tool_call_id=call["id"]) for page, call in zip(pages, asked, strict=True)
            ]
            return Command(goto="researcher", update={"researcher_messages": told, "raw_notes": pages})

        async def compress(state: Research) -> dict[str, Any]:
            return {"finding": (await self.model.ainvoke(f"about {state['topic']}")).text}

        builder = StateGraph(Research, output_schema=Found)
        for node in (researcher, tools, compress):
            builder.add_node(node.__name__, node)
        builder.add_edge(START, "researcher")
        return builder.compile(name="research")

    def team(self) -> Any:
        async def supervisor(state: Team) -> Command[Literal["supervisor_tools"]]:
            said = await self.model.ainvoke(state["supervisor_messages"])
            return Command(
                goto="supervisor_tools",
                update={"supervisor_messages": [said], "rounds": state.get("rounds", 0) + 1},
            )

        async def supervisor_tools(state: Team, config: RunnableConfig) -> Any:
            asked = state["supervisor_messages"][-1].tool_calls
            if not asked or state["rounds"] > config["configurable"].get("rounds", 9):
                return Command(goto=END)
            found = await self.research_all([call["args"]["topic"] for call in asked], config)
            told = [
                ToolMessage(one["finding"], tool_call_id=call["id"])
                for one, call in zip(found, asked, strict=True)
            ]
            notes = [note for one in found for note in one["raw_notes"]]
            return Command(goto="supervisor", update={"supervisor_messages": told, "raw_notes": notes})

        builder = StateGraph(Team)
        builder.add_node("supervisor", supervisor)
        builder.add_node("supervisor_tools", supervisor_tools, destinations=("supervisor", END))
        builder.add_edge(START, "supervisor")
        return builder.compile()

    def graph(self, **options: Any) -> Any:
        async def scope(state: Report) -> dict[str, Any]:
            brief = await self.model.with_structured_output(Brief).ainvoke(
                f"scope {state['messages'][-1].text}"
            )
            return {"brief": brief.question, "supervisor_messages": [HumanMessage(f"lead {brief.question}")]}

        async def write(state: Report) -> dict[str, Any]:
            return {"report": (await self.model.ainvoke("; ".join(state["raw_notes"]))).text}

        class Whole(Report):
            supervisor_messages: Annotated[list[AnyMessage], add_messages]

        builder = StateGraph(Whole, context_schema=Setup)
        builder.add_node("scope", scope)
        builder.add_node("research_supervisor", self.team())
        builder.add_node("write", write)
        for start, end in [
            (START, "scope"),
            ("scope", "research_supervisor"),
            ("research_supervisor", "write"),
            ("write", END),
        ]:
            builder.add_edge(start, end)
        return builder.compile(**options)


def given_to_researcher(topic: str) -> dict[str, Any]:
    return {"topic": topic, "researcher_messages": [HumanMessage(f"study {topic}")]}


class Gathers(Machine):
    async def search_all(self, found: list[Any], config: RunnableConfig) -> list[str]:
        return await asyncio.gather(*(search.ainvoke(call["args"], config) for call in found))  # noqa: TID251

    async def research_all(self, topics: list[str], config: RunnableConfig) -> list[Found]:
        runs = (self.researcher.ainvoke(given_to_researcher(topic), config) for topic in topics)
        return await asyncio.gather(*runs)  # noqa: TID251


class Edges(Machine):
    def prepare(self) -> None:
        async def page(state: dict[str, Any], config: RunnableConfig) -> str:
            return await search.ainvoke(state["item"]["args"], config)

        self.searches = vmap(page, batch_key="calls", out_key="pages", name="searches")
        self.researchers = vmap(
            self.researcher,
            batch_key="topics",
            out_key="found",
            item_to_state=given_to_researcher,
            name="researchers",
        )

    async def search_all(self, found: list[Any], config: RunnableConfig) -> list[str]:
        return (await self.searches.ainvoke({"calls": found}, config))["pages"]

    async def research_all(self, topics: list[str], config: RunnableConfig) -> list[Found]:
        return (await self.researchers.ainvoke({"topics": topics}, config))["found"]


MACHINES: list[type[Machine]] = [Gathers, Edges]
GIVEN = {"messages": [HumanMessage("power")]}


@pytest.mark.parametrize("saved", [True, False])
async def test_both_make_the_same_report(saved: bool) -> None:
    states: list[Any] = []
    models: list[Chat] = []
    for machine in MACHINES:
        models.append(Chat(answer))
        graph = machine(models[-1]).graph(checkpointer=InMemorySaver() if saved else None)
        states.append(plain(await graph.ainvoke(GIVEN, thread())))
    assert states[0] == states[1]
    assert len(states[0]["raw_notes"]) == 6
    assert states[0]["report"].startswith(
        "summary of page on wind cost; page on wind yield; page on sun cost"
    )
    assert Counter(models[0].asked) == Counter(models[1].asked)
    assert len(models[0].asked) == 1 + 3 + 3 * 3 + 1


async def test_the_setup_in_the_config_reaches_every_level() -> None:
    states = [
        plain(await machine(Chat(answer)).graph().ainvoke(GIVEN, {"configurable": {"rounds": 1}}))
        for machine in MACHINES
    ]
    assert states[0] == states[1]
    assert len(states[0]["raw_notes"]) == 4, "one round"


async def test_usage_is_told_by_node() -> None:
    with mahsm.usage() as used:
        await Edges(Chat(answer)).graph().ainvoke(GIVEN, thread())
    assert used.calls == 14
    where = {name.rpartition("/")[2]: one.calls for name, one in used.by_node.items()}
    assert where == {"scope": 1, "supervisor": 3, "researcher": 6, "compress": 3, "write": 1}


class Watched(InMemorySaver):
    """Says when a researcher has ended: its finding is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = {"summary of about wind": asyncio.Event(), "summary of about sun": asyncio.Event()}

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        put = await super().aput(config, checkpoint, metadata, new_versions)
        if ended := self.ended.get(checkpoint["channel_values"].get("finding")):
            ended.set()
        return put


class Breaks(Chat):
    """Fails or hangs the first time that it is asked about the sun, when the wind is done."""

    saver: Watched
    hangs: bool
    reached: asyncio.Event = Field(default_factory=asyncio.Event)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        answer = await super()._agenerate(messages, *args, **kwargs)
        if messages[-1].text == "about sun" and self.asked.count("about sun") == 1:
            await self.saver.ended["summary of about wind"].wait()
            self.reached.set()
            if self.hangs:
                await asyncio.Event().wait()
            raise ConnectionError("no sun")
        return answer


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cancelled", [True, False])
async def test_only_the_open_researcher_begins_again(machine: type[Machine], cancelled: bool) -> None:
    """It does by `gather`, too, where the parts are graphs that are given the node's config."""
    saver = Watched()
    model = Breaks(answer, saver=saver, hangs=cancelled)
    graph = machine(model).graph(checkpointer=saver)
    running = asyncio.ensure_future(graph.ainvoke(GIVEN, thread()))
    await model.reached.wait()
    if cancelled:
        running.cancel()
    with pytest.raises((ConnectionError, asyncio.CancelledError)):
        await running
    before = Counter(model.asked)
    state = await graph.ainvoke(None, thread())
    assert state["report"].startswith("summary of page on wind cost; page on wind yield; page on sun cost")
    again = Counter(model.asked) - before
    assert {task: count for task, count in again.items() if before[task]} == {"about sun": 1}
