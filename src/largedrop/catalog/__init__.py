"""Published datasets: what is in them, and how they are had."""
