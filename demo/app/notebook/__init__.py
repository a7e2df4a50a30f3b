"""The shared code of the web service and the hooks."""
