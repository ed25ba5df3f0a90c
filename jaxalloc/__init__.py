"""jaxalloc: thinking-token budgets and KV-cache schedules for LLM servers, exact and batched."""

from jaxalloc.scheduling import policies as policies
from jaxalloc.scheduling.batch import simulate_batch as simulate_batch
from jaxalloc.scheduling.batch_time import BatchTime as BatchTime
from jaxalloc.scheduling.requests import Requests as Requests
from jaxalloc.scheduling.schedule import Schedule as Schedule
from jaxalloc.scheduling.schedule import ScheduleStatus as ScheduleStatus
from jaxalloc.scheduling.simulation import simulate as simulate
