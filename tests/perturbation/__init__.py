"""Tests of bmfm.perturbation."""
