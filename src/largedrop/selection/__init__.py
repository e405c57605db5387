"""From records to choices; pure functions."""
