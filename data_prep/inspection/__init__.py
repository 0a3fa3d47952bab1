"""A look into a corpus: what is in it, and what was left out."""
