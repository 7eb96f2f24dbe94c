"""`python -m wheretune`: the command line."""

from wheretune.cli.app import main

main()
