"""May a model take the place of another? Rules on named data, and an exit code."""
