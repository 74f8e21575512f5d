"""verl's config with our keys, and what runs on each device set of it."""
