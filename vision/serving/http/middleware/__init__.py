"""ASGI middlewares between a client and the routes, one class a job; see `stack`."""
