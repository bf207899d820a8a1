"""A real model inside this machine: llama.cpp in the worker's own process, without a key or a server."""
