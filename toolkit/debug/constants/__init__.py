"""The numbers in a program, and who wrote them."""
