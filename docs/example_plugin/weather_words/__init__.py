"""An example plugin for slimpajama."""
