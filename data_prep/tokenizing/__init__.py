"""Tokenizers: learning one, opening one, and texts -> ids."""
