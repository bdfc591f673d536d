"""Tests of where rules meet machines: journal, ownership, processes."""
