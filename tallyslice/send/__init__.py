"""``tallyslice send``: events from a file, a pipe or the command line into a cluster, each counted once.

::

    source.py    a thread: bytes, unpacked if need be, cut into lines, in parcels; some are given an id
    fates.py     what an answer means for each line of a parcel                             pure
    delivery.py  parcels to API nodes, again and again where that is safe
    record.py    what became of the lines: numbers, and the first of those that were not taken
    command.py   ``tallyslice send``
"""
