"""Measurements behind the figures in docs/, each started with ``python -m``."""
