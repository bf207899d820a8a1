"""`python -m bullpen`: the same as the command `bullpen`."""

from bullpen.cli import main

main()
