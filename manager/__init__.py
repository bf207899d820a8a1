"""WHO decides: takes a question from `infer.auto` and finds the worker that answers it best."""
