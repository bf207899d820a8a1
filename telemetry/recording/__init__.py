"""Writing the books: from the JetStream stream to Postgres, each row once."""
