"""What does a run leave on disk, and how does it get there whole?"""
