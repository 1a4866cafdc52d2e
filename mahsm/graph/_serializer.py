"""`DSPySerializer`: how a checkpointer stores the types of DSPy."""

from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from mahsm.graph._recorded import loaded, stored


class DSPySerializer(JsonPlusSerializer):
    """LangGraph's serialiser, which also gives DSPy's types back as they were.

    LangGraph's own gives a `dspy.Code`, `dspy.Image` or `dspy.Audio` back as a text, and refuses a
    `dspy.Prediction` and a `dspy.Example`. All else is stored as it stores it. It takes LangGraph's
    arguments, and goes wherever a serialiser does: into a checkpointer, a cache, an `EncryptedSerializer`.

    Raises:
        GraphError: when read, if a class of the user's that holds such types is not there any more.

    Example:
        >>> import dspy
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> from mahsm import DSPySerializer
        >>> serializer = DSPySerializer()
        >>> checkpointer = InMemorySaver(serde=serializer)
        >>> serializer.loads_typed(serializer.dumps_typed({"program": dspy.Code(code="print(1)")}))
        {'program': Code(code='print(1)')}
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The value as LangGraph's serialiser stores it, with DSPy's types as plain data."""
        return super().dumps_typed(stored(obj))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value, with DSPy's types as they were."""
        return loaded(super().loads_typed(data))
