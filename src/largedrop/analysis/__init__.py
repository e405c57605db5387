"""What is computed from finished runs or frozen features."""
