"""How predicted cells are compared with measured ones: the metrics of perturbation prediction, each to a published definition."""
