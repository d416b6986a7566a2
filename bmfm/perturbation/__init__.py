"""What becomes of a cell: predicted responses to perturbations, and screens that rank genes by them."""
