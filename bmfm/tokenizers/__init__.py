"""From symbols to token ids and back; a tokenizer is saved beside every model that uses it."""
