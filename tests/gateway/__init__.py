"""Tests of the edge: wire, HTTP, client, command line, and the whole engine as it is started."""
