"""Benchmarks: pure measuring cores and thin drivers."""
