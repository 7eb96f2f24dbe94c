"""`python -m wheretune`: the command line."""

from wheretune.cli import main

main()
