"""Traced blocks as scans, while loops and conds: how does a loop or a condition run?"""
