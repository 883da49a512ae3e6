"""Which inputs have a gradient that is always zero, and which line makes it so?"""
