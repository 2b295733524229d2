r"""Stands in for curl where there is none, as on a fresh Debian: as much of it as the documentation's examples use.

``curl [-i] [-s] [-X METHOD] [-H HEADER] [-d DATA] [-o FILE] [-w FORMAT] URL``; of a format only ``%{http_code}`` and
``\n``.
"""

from __future__ import annotations

import argparse
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit


def main() -> int:
    """One request; exit code 7, as curl's, if nobody answers."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("-i", "--include", action="store_true")
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-X", "--request")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data")
    parser.add_argument("-o", "--output")
    parser.add_argument("-w", "--write-out", default="")
    asked = parser.parse_args()
    url = urlsplit(asked.url)
    headers = dict(header.split(": ", 1) for header in asked.header)
    if asked.data is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = asked.request or ("GET" if asked.data is None else "POST")
    connection = HTTPConnection(url.hostname or "", url.port or 80, timeout=20)
    try:
        connection.request(method, f"{url.path or '/'}?{url.query}" if url.query else url.path, asked.data, headers)
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        sys.stderr.write(f"curl: (7) {error}\n")
        return 7
    if asked.include:
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders())
        body = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{head}\r\n".encode() + body
    if asked.output is None:
        sys.stdout.buffer.write(body)
    sys.stdout.write(asked.write_out.replace("%{http_code}", str(answer.status)).replace("\\n", "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
