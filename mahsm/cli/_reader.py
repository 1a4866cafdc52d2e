"""The demo's DSPy module, which is only loaded for `--model`, since it imports DSPy."""

from typing import Any

import dspy

from mahsm.cli._documents import Document

LONGEST = 6_000
"""Characters of a document that are sent to the model."""


class Read(dspy.Signature):
    """Decide how well the document answers the question."""

    question: str = dspy.InputField()
    document: str = dspy.InputField()
    score: float = dspy.OutputField(desc="from 0 (has nothing to do with it) to 1 (answers it)")
    why: str = dspy.OutputField(desc="one sentence")


class Reader(dspy.Module):
    """Scores one document."""

    def __init__(self) -> None:
        super().__init__()
        self.read = dspy.Predict(Read)

    def forward(self, question: str, item: Document) -> dspy.Prediction:
        return self._named(item, self.read(**self._inputs(question, item)))

    async def aforward(self, question: str, item: Document) -> dspy.Prediction:
        return self._named(item, await self.read.acall(**self._inputs(question, item)))

    def _inputs(self, question: str, item: Document) -> dict[str, Any]:
        return {"question": question, "document": f"{item['name']}\n{item['text'][:LONGEST]}"}

    def _named(self, item: Document, prediction: Any) -> dspy.Prediction:
        return dspy.Prediction(name=item["name"], score=prediction.score, why=prediction.why)
