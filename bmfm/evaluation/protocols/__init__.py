"""How a task is scored: one class a protocol, each with a YAML in ``conf/protocol``."""
