"""MedCoT's own code, run from the repository's root as ``python -m scripts.X``."""
