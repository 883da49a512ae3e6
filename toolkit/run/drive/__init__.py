"""How does a run start, go on after a kill, and end?"""
