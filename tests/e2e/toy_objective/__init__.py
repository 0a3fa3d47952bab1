"""An objective made up for a test: masked tokens, and how many documents a row has."""
