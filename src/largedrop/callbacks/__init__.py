"""Dropout and averages of the weights in other libraries' trainers."""
