"""What is a leaf of a tree, and which type do two of them have together? Below all arithmetic on trees."""
