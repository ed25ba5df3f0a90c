"""jaxalloc: thinking-token budgets and KV-cache schedules for LLM servers, exact and batched."""
