"""The reference model in PyTorch, its configuration, its checkpoints."""
