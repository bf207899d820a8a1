"""The machine: processors, memory and GPUs, as the cgroup and the drivers report them."""
