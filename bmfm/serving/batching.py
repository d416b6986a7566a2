"""Examples of several requests in one pass of the model."""
