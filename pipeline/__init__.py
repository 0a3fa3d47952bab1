"""Encoder pretraining: recipe -> DeepSpeed engine -> checkpoints -> evaluation, export, report."""
