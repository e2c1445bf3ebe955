"""Helpers of all rooms: files, pages, memory, processes, progress, modules by name."""
