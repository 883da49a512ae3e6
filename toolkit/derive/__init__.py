"""How a derivative rule is written by hand: which pieces do all rules share?"""
