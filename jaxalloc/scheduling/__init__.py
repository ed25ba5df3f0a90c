"""Which requests run together under a KV-cache limit: a simulator."""
