"""The command line: one group, `tbps`, whose commands open something, call the library once, and print."""
