"""What a model's output comes from: attributions of genes and bases, edits in silico, gene embeddings, attention."""
