"""Backend objects that serve requests, and those that finish their requests after a swap."""
