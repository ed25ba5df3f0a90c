"""How many thinking tokens each task type gets: an M/G/1 queue, solved and differentiated."""

from jaxalloc.allocation.queue import arrivals as arrivals
