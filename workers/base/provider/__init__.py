"""What backends that ask a provider share: connections, streams, errors, conversations."""
