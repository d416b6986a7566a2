"""What lies in a model folder, on disk or on the Hub: finding it, its config.json, its weights, published pickles as data. No model class."""
