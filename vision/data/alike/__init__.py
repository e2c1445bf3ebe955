"""Which pictures show the same: hashes, a search for pairs, and a comparison of two of them."""
