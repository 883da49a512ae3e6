"""Which shape and dtype does each line of a function produce?"""
