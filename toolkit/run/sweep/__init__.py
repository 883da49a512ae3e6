"""How does one config become many runs, here or on a cluster, and what became of each?"""
