"""The HTTP routes of an API node, a module per group."""
