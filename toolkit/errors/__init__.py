"""Messages in the user's words: which line of the user's is to blame, and what should it say?"""
