"""Instruments DSPy, for the whole process, and traces an edge; prints both trees."""

import dspy
from openinference.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm import vmap
from mahsm.testing import ModelServer
from tests.tracing.spans import recorded

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
DSPyInstrumentor().instrument(tracer_provider=provider)
with ModelServer({"answer": "yes"}) as server, recorded() as recording, dspy.context(lm=server.lm()):
    vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", name="asks").invoke({"xs": ["a"]})
    print(recording.tree())
print(len(exporter.get_finished_spans()) > 0)
