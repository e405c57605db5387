"""What is run: comparisons, sweeps, presets."""
