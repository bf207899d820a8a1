"""Processes of a mesh on one machine: started, watched, restarted with back-off, stopped."""
