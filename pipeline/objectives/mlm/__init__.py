"""Masked language modelling (Devlin et al. 2019)."""
