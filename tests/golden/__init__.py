"""What earlier engines wrote, as files, and what became of it: read to the same state for ever."""
