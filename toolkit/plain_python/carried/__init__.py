"""Variables as arrays and structure: what goes into a block, and what comes out of it?"""
