"""The only door to JAX's internals: what does a traced program consist of?"""
