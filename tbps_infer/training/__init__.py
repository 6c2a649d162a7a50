"""Training of the reference model: losses, batches, the resumable loop."""
