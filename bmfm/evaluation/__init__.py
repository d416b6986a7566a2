"""How good a model is, beside the simplest strong baseline."""
