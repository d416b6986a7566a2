"""Model folders to models and back: our format, the published ones, those of others, adapters."""
