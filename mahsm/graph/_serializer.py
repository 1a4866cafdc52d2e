"""`DSPySerializer`: lets a checkpointer store the types of DSPy."""

from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from mahsm.graph._recorded import loaded, stored


class DSPySerializer(JsonPlusSerializer):
    """LangGraph's serialiser, extended to restore values of DSPy's types.

    LangGraph's own serialiser restores a `dspy.Code`, `dspy.Image` or `dspy.Audio` as a string, and fails for
    a `dspy.Prediction` or `dspy.Example`. Other values are stored as LangGraph stores them. It takes
    LangGraph's arguments, and can be used in a checkpointer, a cache, or an `EncryptedSerializer`.

    Raises:
        GraphError: when read, if a class of yours that contains such types does not exist any more.

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
        """Serialise a value as LangGraph does, with DSPy's types as plain data."""
        return super().dumps_typed(stored(obj))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Restore a value, including DSPy's types."""
        return loaded(super().loads_typed(data))
