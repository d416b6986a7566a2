"""One LightningModule for every model and objective; optimisers, schedules, callbacks, and what a run leaves behind."""
