"""The examples of a task as any method takes them: one class for each kind of data."""
