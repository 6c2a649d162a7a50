"""Judging a model by the field's numbers: exact retrieval metrics and the protocol."""
