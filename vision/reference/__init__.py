"""What images and answers are like in numbers, and how far two sets of them are apart.

The exporter computes these numbers of its training data, the server of what it is sent, and
`vision.monitoring` compares the two. Needs NumPy and OpenCV, but neither JAX nor SciPy.
"""
