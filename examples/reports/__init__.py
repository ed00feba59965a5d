"""Sales that are reported every night: what a schedule looks like in an application."""
