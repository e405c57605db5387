"""Numbers from probabilities and labels: how good, how sure of it, how calibrated; pure functions of arrays."""
