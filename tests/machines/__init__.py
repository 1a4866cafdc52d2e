"""State machines as LangGraph's users have them, each written twice: with `Send`, `gather` or a loop, and
with edges."""
