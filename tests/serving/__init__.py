"""Tests of bmfm.serving."""
