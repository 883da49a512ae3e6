"""Three levels and more: how does a derivative pass through several solves?"""
