"""The conformance suites, a module for each kind (`optimizer` also holds schedules)."""
