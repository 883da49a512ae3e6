"""What rewritten code calls while it runs: what does a construct do with the values it meets?"""
