"""One problem a file: what is differentiated, and each contestant's way to do it."""
