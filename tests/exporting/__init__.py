"""Tests of bmfm.exporting."""
