"""Convolutions and max pooling that are fast on a CPU: C++, its build, and its primitives in JAX."""
