"""Two or more evaluations of the same images, side by side."""
