"""Retrieval that grades what it found, and a plan that is carried out: by a loop in a node, and with
`vmap`."""

import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, run, thread
from tests.machines.chat import Chat, tool_calls


class Rag(TypedDict):
    question: str
    documents: list[Document]
    search: bool
    answer: str


class Grade(BaseModel):
    """Whether a document has to do with the question."""

    relevant: bool


LIBRARY = [
    Document(f"{place} {what}", metadata={"page": page}, id=f"{place}-{page}")
    for place in ("sea", "sky")
    for page, what in enumerate(("wind", "salt"))
]


def answer(messages: list[BaseMessage]) -> Any:
    text = messages[-1].text
    return (
        tool_calls(("Grade", {"relevant": "wind" in text}))
        if text.startswith("grade")
        else f"answer from {text}"
    )


class Machine:
    def __init__(self) -> None:
        self.model = Chat(answer)
        prompt = ChatPromptTemplate.from_template("grade {document} for {question}")
        self.grader = prompt | self.model.with_structured_output(Grade)

    def retrieve(self, state: Rag) -> dict[str, Any]:
        return {
            "documents": [
                document for document in LIBRARY if state["question"] in (document.page_content, "all")
            ]
        }

    def look_up(self, state: Rag) -> dict[str, Any]:
        return {"documents": [*state["documents"], Document("web page")]}

    def generate(self, state: Rag) -> dict[str, Any]:
        return {
            "answer": self.model.invoke(
                ", ".join(document.page_content for document in state["documents"])
            ).text
        }

    def grade_in_a_loop(self, state: Rag) -> dict[str, Any]:
        kept = [
            document
            for document in state["documents"]
            if self.grader.invoke({"document": document.page_content, "question": state["question"]}).relevant
        ]
        return {"documents": kept, "search": len(kept) < 3}

    def by_loop(self) -> StateGraph[Any, Any, Any, Any]:
        builder = self._around("grade")
        builder.add_node("grade", self.grade_in_a_loop)
        builder.add_edge("retrieve", "grade")
        return builder

    def by_edge(self) -> StateGraph[Any, Any, Any, Any]:
        class Graded(TypedDict):
            kept: list[Document]

        def grade(state: dict[str, Any]) -> Document | None:
            document = state["item"]
            found = self.grader.invoke({"document": document.page_content, "question": state["question"]})
            return document if found.relevant else None

        def keep(state: Graded) -> dict[str, Any]:
            kept = [document for document in state["kept"] if document is not None]
            return {"documents": kept, "search": len(kept) < 3}

        builder = self._around("keep")
        builder.add_node("keep", keep)
        return connect(builder, "retrieve", vmap(grade, batch_key="documents", out_key="kept"), "keep")

    def _around(self, grade: str) -> StateGraph[Any, Any, Any, Any]:
        builder = StateGraph(Rag)
        for node in (self.retrieve, self.look_up, self.generate):
            builder.add_node(node.__name__, node)
        builder.add_edge(START, "retrieve")
        builder.add_conditional_edges(
            grade, lambda state: "look_up" if state["search"] else "generate", ["look_up", "generate"]
        )
        builder.add_edge("look_up", "generate")
        builder.add_edge("generate", END)
        return builder


@pytest.mark.parametrize("question", ["all", "sea wind", "nothing"])
@pytest.mark.parametrize("mode", MODES)
def test_graded_documents_are_the_same_and_are_saved(mode: str, question: str) -> None:
    ends: list[Any] = []
    for wire in (Machine.by_loop, Machine.by_edge):
        machine = Machine()
        graph = wire(machine).compile(checkpointer=InMemorySaver())
        state = run(graph, {"question": question}, mode, thread())
        saved = [
            snapshot.values.get("documents")
            for snapshot in graph.get_state_history(thread())
            if not snapshot.next
        ]
        ends.append((state, saved, sorted(machine.model.asked)))
    assert ends[0] == ends[1]
    state, saved, asked = ends[0]
    assert all(isinstance(document, Document) for document in state["documents"])
    assert saved == [state["documents"]]
    assert len(asked) == {"all": 5, "sea wind": 2, "nothing": 1}[question]


class Plan(TypedDict):
    aim: str
    plan: list[str]
    past: Annotated[list[tuple[str, str]], operator.add]
    response: str


def plan(state: Plan) -> dict[str, Any]:
    return {"plan": [f"{state['aim']} 1", f"{state['aim']} 2"]}


def replan(state: Plan) -> dict[str, Any]:
    if len(state["past"]) < 5:
        return {"plan": [f"step after {done}" for _, done in state["past"][-2:]]}
    return {"response": " | ".join(done for _, done in state["past"])}


def wired(execute: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Plan)
    builder.add_node("plan", plan)
    builder.add_node("replan", replan)
    builder.add_node("execute", execute)
    for start, end in [(START, "plan"), ("plan", "execute"), ("execute", "replan")]:
        builder.add_edge(start, end)
    builder.add_conditional_edges(
        "replan", lambda state: END if state.get("response") else "execute", ["execute", END]
    )
    return builder


class Executor:
    """Carries out steps, and breaks at the `breaks`th."""

    def __init__(self, breaks: int | None = None) -> None:
        self.done: list[str] = []
        self.breaks = breaks

    def step(self, state: dict[str, Any]) -> tuple[str, str]:
        self.done.append(state["item"])
        if len(self.done) == self.breaks:
            raise ConnectionError(state["item"])
        return (state["item"], state["item"].upper()[-6:])

    def all_steps(self, state: Plan) -> dict[str, Any]:
        return {"past": [self.step({"item": step}) for step in state["plan"]]}

    def edge(self) -> Any:
        return vmap(self.step, batch_key="plan", out_key="past", max_concurrency=1, name="execute")


WIRES: list[Callable[[Executor], Any]] = [lambda one: one.all_steps, Executor.edge]


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_edge_in_a_cycle_adds_to_what_was_done(mode: str, saved: bool) -> None:
    ends: list[Any] = []
    for wire in WIRES:
        executor = Executor()
        graph = wired(wire(executor)).compile(checkpointer=InMemorySaver() if saved else None)
        ends.append((run(graph, {"aim": "dig"}, mode, thread()), executor.done))
    assert ends[0] == ends[1]
    assert len(ends[0][1]) == 6


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_fails_in_the_second_round(mode: str) -> None:
    """By a loop the whole round is done again, with the edge only the step."""
    ends: list[Any] = []
    for wire in WIRES:
        executor = Executor(4)
        graph = wired(wire(executor)).compile(checkpointer=InMemorySaver())
        with pytest.raises(ConnectionError):
            run(graph, {"aim": "dig"}, mode, thread())
        ends.append((run(graph, None, mode, thread())["response"], len(executor.done)))
    assert ends[0][0] == ends[1][0]
    assert (ends[0][1], ends[1][1]) == (8, 7)
