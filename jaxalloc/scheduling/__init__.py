"""Which requests run together under a KV-cache limit: a simulator."""

from jaxalloc.scheduling import policies as policies
