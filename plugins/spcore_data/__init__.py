"""Data sources: local files, the Hub, GLUE, and a small labelled set that ships with the project."""
