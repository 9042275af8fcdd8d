"""Health and metrics over HTTP, for probes and Prometheus. Nothing here changes anything."""
