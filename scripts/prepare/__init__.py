"""Records in, dataset out."""
