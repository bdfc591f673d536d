"""Where the rules meet machines: hosts, the journal, ownership, fan-out, Ray."""
