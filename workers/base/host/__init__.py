"""The machine: processor, memory and GPUs, as the cgroup and the drivers tell."""
