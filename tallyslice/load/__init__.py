"""The load generator: one room behind ``testrun.sh``, ``tallyslice load`` and ``bench/``.

::

    crowd.py       seeded events, drawn a parcel at a time, and their bodies
    connection.py  ready-made request bytes out, status and body in: a keep-alive HTTP/1.1 client of callbacks
    pace.py        when each request is due: a fixed schedule, or as fast as it goes
    alarm.py       wakes the loop at an instant, to some ten microseconds
    latency.py     HDR histograms
    driver.py      connections, pace and work put together: what is due is sent, what is refused is sent again
    drive.py       the driver with ready-made bytes at any URL: throughput and latency, for bench/
    answers.py     what an answer means for each event
    traffic.py     events and questions for a cluster, and the model of what it acknowledged
    order.py       what to send: kinds, rate, seconds, seed
    generator.py   traffic on a driver
    reconcile.py   what was acknowledged against what is counted
    verdict.py     the check at the end, node by node
    board.py       what is known while it runs; table.py: how it looks
    run.py         ask what is counted, send, show, ask again, compare
    command.py     ``tallyslice load``

From connection.py to drive.py they know nothing of Tallyslice but one header: they load any HTTP server.
"""
