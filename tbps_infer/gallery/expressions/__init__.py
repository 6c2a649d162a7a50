"""The expressions of ``--where``: a closed grammar, its syntax tree, and what the tree becomes in SQL."""
