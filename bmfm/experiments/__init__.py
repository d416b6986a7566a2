"""Experiments: questions to models, asked with arms, controls and statistics that are written down before the answer."""
