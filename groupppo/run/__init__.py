"""A training run as processes: started, watched, resumed and ended; nothing here imports verl."""
