"""Tests of the load generator, and of the audit that a benchmark ends with."""
