"""Commands that measure, write JSON with the commit, and say what they do not prove."""
