"""The backend new_worker."""
