"""The commands of the table of methods."""
