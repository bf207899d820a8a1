"""Care of the database: migrations, partitions, retention, erasure."""
