"""The command line: reads options, calls one function of another room, shows what came back."""
