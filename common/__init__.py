"""What both node types must agree on; imports neither of them."""
