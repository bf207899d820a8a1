"""Backend objects that serve, and those that finish what they began after a swap."""
