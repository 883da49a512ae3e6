"""Which of JAX's internals do we lean on, and do they still mean what they meant?"""
