"""What experiment trackers are told of runs; the runs' own files stay the truth."""
