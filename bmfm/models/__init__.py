"""Models: transformers' own backbones, the masks that keep packed documents apart, checkpoints as folders."""
