"""Files of results: strict readers, whole writes, hashes and provenance."""
