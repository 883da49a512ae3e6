"""The gradient policies of a loop, one a file: how is a loop's derivative made?"""
