"""WHO answers: `base/` is the interface and the runtime; every other folder is one backend."""
