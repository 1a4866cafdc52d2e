"""Questions that items ask a person: with a graph for each item, by `Send` and with `vmap`."""

import operator
from collections import Counter
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from mahsm import connect, vmap
from mahsm.errors import EdgeError
from tests.helpers import MODES, run, thread


class Letters(TypedDict):
    names: list[str]
    letters: Annotated[list[str], operator.add]
    posted: str


class Letter(TypedDict):
    name: str
    draft: str
    letters: list[str]


class Clerk:
    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()

    def draft(self, state: Letter) -> dict[str, Any]:
        self.steps[f"draft {state['name']}"] += 1
        return {"draft": f"Dear {state['name']}"}

    def review(self, state: Letter) -> dict[str, Any]:
        said = interrupt(f"Send '{state['draft']}'?")
        self.steps[f"reviewed {state['name']}"] += 1
        return {"letters": [f"{state['draft']}: {said}"]}

    def letter(self) -> Any:
        builder = StateGraph(Letter)
        builder.add_node("draft", self.draft)
        builder.add_node("review", self.review)
        builder.add_edge(START, "draft")
        builder.add_edge("draft", "review")
        return builder.compile(name="letter")

    def post(self, state: Letters) -> dict[str, Any]:
        self.steps["post"] += 1
        return {"posted": "; ".join(state["letters"])}


class Mail(TypedDict):
    letters: list[str]


def by_send(clerk: Clerk) -> Any:
    builder = StateGraph(Letters)
    builder.add_node("letter", clerk.letter())
    builder.add_node("post", clerk.post)
    builder.add_conditional_edges(
        START, lambda state: [Send("letter", {"name": name}) for name in state["names"]], ["letter"]
    )
    builder.add_edge("letter", "post")
    return builder.compile(checkpointer=InMemorySaver())


def by_edge(clerk: Clerk) -> Any:
    edge = vmap(
        clerk.letter(),
        batch_key="names",
        out_key=["letters"],
        item_to_state=lambda name: {"name": name},
        name="letter",
    )
    return connect(StateGraph(Letters), START, edge, clerk.post, END).compile(checkpointer=InMemorySaver())


GIVEN = {"names": ["Ann", "Bo", "Cy"]}
BUILDERS = [by_send, by_edge]
ONCE = Counter(
    {f"{step} {name}": 1 for step in ("draft", "reviewed") for name in GIVEN["names"]} | {"post": 1}
)
POSTED = "Dear Ann: yes to Ann; Dear Bo: yes to Bo; Dear Cy: yes to Cy"


def begun(build: Any, mode: str) -> tuple[Clerk, Any, dict[str, str]]:
    """A graph that has asked; the ids of its questions by name."""
    clerk = Clerk()
    graph = build(clerk)
    asked = run(graph, GIVEN, mode, thread())["__interrupt__"]
    return (
        clerk,
        graph,
        {question.value.removeprefix("Send 'Dear ").removesuffix("'?"): question.id for question in asked},
    )


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_each_item_asks_and_each_has_a_draft_to_see(mode: str, build: Any) -> None:
    _, graph, ids = begun(build, mode)
    assert len({*ids.values()}) == 3
    drafts: list[str] = []

    def look(snapshot: Any) -> None:
        for task in snapshot.tasks:
            if hasattr(task.state, "values"):
                drafts.extend([task.state.values["draft"]] if "draft" in task.state.values else [])
                look(task.state)

    look(graph.get_state(thread(), subgraphs=True))
    assert sorted(drafts) == ["Dear Ann", "Dear Bo", "Dear Cy"]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_answered_all_at_once(mode: str, build: Any) -> None:
    clerk, graph, ids = begun(build, mode)
    state = run(graph, Command(resume={id: f"yes to {name}" for name, id in ids.items()}), mode, thread())
    assert state["posted"] == POSTED
    assert clerk.steps == ONCE


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_answered_one_by_one(mode: str, build: Any) -> None:
    """What has been answered does not ask again, and nothing runs twice; the last one needs no id."""
    clerk, graph, ids = begun(build, mode)
    state = run(graph, Command(resume={ids["Cy"]: "yes to Cy"}), mode, thread())
    assert {question.id for question in state["__interrupt__"]} == {ids["Ann"], ids["Bo"]}
    state = run(graph, Command(resume={ids["Ann"]: "yes to Ann"}), mode, thread())
    assert [question.id for question in state["__interrupt__"]] == [ids["Bo"]]
    assert run(graph, Command(resume="yes to Bo"), mode, thread())["posted"] == POSTED
    assert clerk.steps == ONCE


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_one_answer_to_several_questions_is_refused(mode: str, build: Any) -> None:
    clerk, graph, ids = begun(build, mode)
    with pytest.raises(RuntimeError, match="multiple pending interrupts"):
        run(graph, Command(resume="yes"), mode, thread())
    state = run(graph, Command(resume={id: f"yes to {name}" for name, id in ids.items()}), mode, thread())
    assert state["posted"] == POSTED
    assert clerk.steps == ONCE


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_state_of_a_waiting_item_is_changed(mode: str, build: Any) -> None:
    """It asks again, with the draft that it was given; the others are left alone."""
    _, graph, ids = begun(build, mode)

    def waiting(snapshot: Any) -> Any:
        for task in snapshot.tasks:
            if hasattr(task.state, "values") and task.state.values.get("draft") == "Dear Bo":
                return task.state.config
            if hasattr(task.state, "tasks") and (found := waiting(task.state)):
                return found
        return None

    graph.update_state(waiting(graph.get_state(thread(), subgraphs=True)), {"draft": "Dearest Bo"})
    state = run(graph, Command(resume={ids["Ann"]: "a", ids["Cy"]: "c"}), mode, thread())
    [question] = state["__interrupt__"]
    assert question.value == "Send 'Dearest Bo'?"
    assert (
        run(graph, Command(resume="b"), mode, thread())["posted"] == "Dear Ann: a; Dearest Bo: b; Dear Cy: c"
    )


@pytest.mark.parametrize("mode", MODES)
def test_several_questions_of_one_item_and_of_the_node_after(mode: str) -> None:
    """A question that was answered never comes again."""

    def ask(state: Any) -> list[str]:
        return [f"{state['item']} {interrupt('first')} {interrupt('second')}"]

    def post(state: Letters) -> dict[str, Any]:
        return {"posted": f"{'; '.join(state['letters'])} {interrupt('post?')}"}

    edge = vmap(
        ask, batch_key="names", out_key=["letters"], result=lambda texts: {"letters": texts}, name="letter"
    )
    graph = connect(StateGraph(Letters), START, edge, post, END).compile(checkpointer=InMemorySaver())
    asked: list[list[str]] = []
    state = run(graph, {"names": ["Ann", "Bo"]}, mode, thread())
    while questions := state.get("__interrupt__"):
        asked.append(sorted(question.value for question in questions))
        answers = {question.id: f"<{question.value}>" for question in questions}
        state = run(graph, Command(resume=answers), mode, thread())
    assert asked == [["first", "first"], ["second", "second"], ["post?"]]
    assert state["posted"] == "Ann <first> <second>; Bo <first> <second> <post?>"


@pytest.mark.parametrize("mode", MODES)
def test_many_items_of_a_function_say_how_they_may_ask(mode: str) -> None:
    edge = vmap(lambda state: interrupt(state["item"]), batch_key="names", out_key="letters", name="letter")
    graph = connect(StateGraph(Letters), START, edge, END).compile(checkpointer=InMemorySaver())
    with pytest.raises(
        EdgeError, match=r"called interrupt\(\), but \d+ items share a task.*Pass chunk_size=1"
    ):
        run(graph, {"names": [str(number) for number in range(300)]}, mode, thread())


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_graph_stops_before_and_after_a_fan_out(mode: str, build: Any) -> None:
    clerk = Clerk()
    clerk.review = lambda state: {"letters": [state["draft"]]}  # type: ignore[method-assign]
    graph = build(clerk).copy({"interrupt_before_nodes": ["letter", "post"]})
    run(graph, GIVEN, mode, thread())
    assert not clerk.steps
    run(graph, None, mode, thread())
    assert {*graph.get_state(thread()).next} == {"post"}
    assert run(graph, None, mode, thread())["posted"] == "Dear Ann; Dear Bo; Dear Cy"
    assert clerk.steps == Counter({f"draft {name}": 1 for name in GIVEN["names"]} | {"post": 1})
