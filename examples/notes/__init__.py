"""A notes application that answers at once and lets a worker do the rest; README.md says how to run it."""
