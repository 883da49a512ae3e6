"""Where a solver meets an adjoint: what is the solution, what is its derivative, and how good is it?"""
