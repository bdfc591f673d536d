"""The edge: wire protocol, HTTP, batching, client, metrics and the command line."""
