"""Deterministic simulation: the real engine in a made-up world, judged by a naive model."""
