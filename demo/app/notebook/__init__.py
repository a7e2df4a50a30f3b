"""What the web service and the hooks share."""
