"""Runs that compare variants of the model and its losses on synthetic pedestrians, many at once."""
