"""What simple methods reach, as methods of a benchmark."""
