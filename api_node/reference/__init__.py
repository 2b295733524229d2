"""What an API node tells of its own interface: the OpenAPI document, and a page to read it with."""
