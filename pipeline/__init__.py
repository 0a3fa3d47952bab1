"""Pretraining of Transformer encoders: recipe -> DeepSpeed engine -> checkpoints -> evaluation, export, report."""
