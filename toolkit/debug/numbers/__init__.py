"""Which numbers of a program stand in its code and in no config?"""
