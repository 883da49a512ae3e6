"""Where did the first NaN or infinity come from?"""
