"""Real processes, real faults: what was acknowledged is there exactly once, whatever was killed."""
