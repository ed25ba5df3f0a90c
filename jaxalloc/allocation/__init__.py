"""How many thinking tokens each task type gets: an M/G/1 queue, solved and differentiated."""
