"""One bilevel method a file: which steps does a paper's algorithm take?"""
