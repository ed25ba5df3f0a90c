"""The optimum: solved, certified, differentiated, in batches."""
