"""Tests of bmfm.interpret."""
