"""WHO remembers: books every answer, every attempt and every worker's changes in Postgres."""
