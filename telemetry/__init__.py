"""Books every answer, every attempt and every worker's changes in Postgres."""
