"""A fan-out inside a fan-out: chapters of books, under one bound."""

import asyncio
from typing import Any

from mahsm import vmap

running = most = 0


async def count_words(state: Any) -> int:
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.001)
    running -= 1
    return len(state["chapter"].split())


chapters = vmap(
    count_words,
    batch_key="chapters",
    out_key="words",
    item_to_state=lambda text: {"chapter": text},
    max_concurrency=4,
)
books = vmap(
    chapters,
    batch_key="books",
    out_key="counts",
    item_to_state=lambda book: {"chapters": book},
    result="words",
    max_concurrency=4,
)
library = [["one two", "three"], ["four five six"], ["seven", "eight", "nine ten", "eleven"]]
print(asyncio.run(books.ainvoke({"books": library}))["counts"])
print("at most", most, "at once")

# Output:
# [[2, 1], [3], [1, 1, 2, 1]]
# at most 4 at once
