"""Selection among settings: pure functions from records to rows."""
