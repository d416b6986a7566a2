"""All targets by their names."""

from tests.fuzz import test_cells, test_checkpoints, test_configuration, test_genome, test_scored, test_shards, test_tables
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {
    t.name: t
    for m in (test_genome, test_scored, test_cells, test_tables, test_checkpoints, test_shards, test_configuration)
    for t in vars(m).values()
    if isinstance(t, Target)
}
