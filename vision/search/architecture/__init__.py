"""Searches for mobile networks: `python -m vision.search.architecture`.

The networks are those of `vision.models.mobile_space`. Each is trained on its own, or judged by the
weights of a supernet (`vision.objectives.supernet`). `extract` writes a network of a supernet as a
run; `rank` says how well the supernet ranks networks.
"""
