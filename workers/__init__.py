"""The workers that answer requests: `base/` is the interface and the runtime; every other folder is one backend."""
