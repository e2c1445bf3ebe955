"""What every room may use and nobody comes for: files, pages, memory, processes."""
