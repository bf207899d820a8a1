"""Durable requests from `jobs.submit`: taken from the stream, answered, kept in `RESULTS`."""
