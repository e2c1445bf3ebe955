"""HTTP: routes, limits and connections."""
