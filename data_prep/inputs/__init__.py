"""Reading corpora: files -> segments -> parts -> documents, the same for any number of processes."""
