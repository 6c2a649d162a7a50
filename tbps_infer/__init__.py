"""tbps-infer: text-based person search, from a trained checkpoint to verified engines and exact gallery search."""

__version__ = "0.1.0"
