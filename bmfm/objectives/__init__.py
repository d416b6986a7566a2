"""What a model is trained for: labels from a batch, heads where they are needed, losses with names."""
