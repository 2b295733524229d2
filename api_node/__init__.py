"""The stateless node that takes events over HTTP and answers questions about them."""
