"""SGD on many linear settings at once."""
