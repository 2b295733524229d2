"""``tallyslice watch``: what a cluster counts, live in a terminal.

::

    look.py      asks, again and again, and keeps what is known
    view.py      what that looks like: a screen, or a line                                  pure
    command.py   ``tallyslice watch``
"""
