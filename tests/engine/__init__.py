"""Tests of the rules: a naive model to compare with, and examples of every rule."""
