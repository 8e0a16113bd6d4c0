"""Generated configuration files and documents."""
