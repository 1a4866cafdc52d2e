"""A million rows go through an edge in constant memory; the run is broken off in the middle, and goes on."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from mahsm import vmap
from mahsm.data import sinks, stream

ROWS = 20_000  # or 1_000_000, with the same memory

folder = Path(tempfile.mkdtemp())
with open(folder / "rows.jsonl", "w") as file:
    file.writelines(json.dumps({"id": n, "text": f"row {n}"}) + "\n" for n in range(ROWS))

breaks_off = True


async def measure(state: dict[str, Any]) -> dict[str, int]:
    """Stands in for a call of a model."""
    row = state["item"]
    if breaks_off and row["id"] == ROWS // 2:
        raise ConnectionError("the provider is down")
    return {"id": row["id"], "length": len(row["text"])}


edge = vmap(
    measure, batch_key="rows", out_key="report", max_concurrency=64, sink=sinks.Jsonl(folder / "measured")
)
rows = stream(folder / "rows.jsonl")

try:
    asyncio.run(edge.ainvoke({"rows": rows}))
except ConnectionError as error:
    print(f"broken off: {error}")

breaks_off = False
report = asyncio.run(edge.ainvoke({"rows": rows}))["report"]
print(f"{report['rows']:,} rows, {report['errors']} errors")

ids = (row["id"] for row in sinks.read(folder / "measured"))
print("each once, in order:", all(found == expected for expected, found in enumerate(ids)))

# Output:
# broken off: the provider is down
# 20,000 rows, 0 errors
# each once, in order: True
