"""The model server: bundles behind the Open Inference Protocol, REST and gRPC. Imports no JAX."""

LOADER = "loader"  # name of the threads that load versions: what ends the process asks whether one is at work
