"""What is done to documents before they are tokenized, and which are left out. No module keeps state."""
