"""Offline corpus preparation: documents -> tokenizer -> packed Arrow shards. Never imports torch."""
