"""The model server: bundles behind the Open Inference Protocol, REST and gRPC. Imports no JAX."""
