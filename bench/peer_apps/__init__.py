"""The peers: for each an application with a handler that does nothing, at the settings that suit it best."""
