"""Tests of what operators are given: alerts, runbooks, dashboard; each against a real engine."""
