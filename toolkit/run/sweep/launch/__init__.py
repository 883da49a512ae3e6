"""Which machine does a run of a sweep go to? One file an engine; clusters are made by existing engines."""
