"""What the reference model looks at, and what it finds common."""
