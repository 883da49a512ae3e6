"""How large are the gradients of each parameter?"""
