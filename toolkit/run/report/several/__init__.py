"""Several runs side by side: what differs between them, and what do their seeds say together?"""
