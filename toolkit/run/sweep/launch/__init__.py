"""On which machine does a run of a sweep go? One file an engine; clusters are those of existing engines."""
