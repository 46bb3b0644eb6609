"""Traces by OpenTelemetry: which requests, what is said of them, where it is sent. Imported where it is switched on."""
