"""`python -m slimpajama`: the command line."""

from spcore.cli import main

main()
