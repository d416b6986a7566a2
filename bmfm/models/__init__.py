"""Models: summed field encoders, a backbone of transformers' own layers, named heads; checkpoints as folders."""
