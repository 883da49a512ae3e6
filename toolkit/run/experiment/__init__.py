"""What does a config say, and is it valid?"""
