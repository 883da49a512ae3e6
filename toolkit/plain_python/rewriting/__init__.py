"""From a function's source to a function whose blocks are functions: what does the code become?"""
