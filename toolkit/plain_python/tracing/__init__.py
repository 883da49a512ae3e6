"""One block, run on tracers: what does it compute, and do its types stay the same?"""
