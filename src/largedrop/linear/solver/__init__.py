"""Converged linear heads under dropout."""
