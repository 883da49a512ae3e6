"""Why was a function compiled again?"""
