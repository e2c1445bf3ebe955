"""What an evaluation shows: the page, its pictures and its words."""
