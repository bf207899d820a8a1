"""What backends of remote providers share: connections, streams, errors, conversations."""
