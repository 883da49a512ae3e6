"""How does an experiment become compiled programs that make many steps at once?"""
