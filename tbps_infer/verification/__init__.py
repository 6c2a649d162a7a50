"""Comparing embeddings: parity with a reference, the gate on metrics, and golden vectors."""
