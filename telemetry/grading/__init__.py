"""Promotion and demotion: grades computed from the books."""
