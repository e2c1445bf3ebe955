"""Two evaluations of the same images, side by side."""
