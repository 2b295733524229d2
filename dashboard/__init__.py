"""The dashboard of an API node: one page, and the stream of figures that it shows."""
