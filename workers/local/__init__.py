"""A real model inside this machine: llama.cpp in the worker's own process, no key, no server."""
