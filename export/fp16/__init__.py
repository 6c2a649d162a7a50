"""Mixed precision: FP32 graphs become FP16 where FP16 holds."""
