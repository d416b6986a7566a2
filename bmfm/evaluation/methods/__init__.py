"""Methods under test: what a protocol compares."""
