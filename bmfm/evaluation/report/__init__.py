"""The report of a benchmark run: records -> comparison -> tables and drawings -> pages."""
