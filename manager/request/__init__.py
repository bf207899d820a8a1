"""One request, from its arrival to its rows in the books.

`dispatch` asks workers and listens; `retry_policy` decides whether another worker is asked; `attempt` is one try.
"""
