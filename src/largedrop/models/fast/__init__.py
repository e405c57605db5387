"""Faster forms of layers with the same outputs and gradients."""
