"""A training run: its identity, its template, what is checked before it, its base models."""
