"""What a user would pick instead, timed in one run on the same weights and pictures: see `run`, and the Makefile."""
