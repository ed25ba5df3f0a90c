"""The rules of one round: arrivals, overflow, admission, one token each, completions."""
