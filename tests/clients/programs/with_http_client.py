from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from conversation import converse, each, outcome


def carry_out(requests):
    connection = HTTPConnection(urlsplit(requests[0]["url"]).netloc, timeout=requests[0]["timeout"])

    def send(request):
        target = urlsplit(request["url"]).path
        connection.request(request["method"], target, request["body"].encode(), request["headers"])
        response = connection.getresponse()
        return outcome(response.status, dict(response.headers), response.read())

    try:
        return each(send, (OSError, HTTPException))(requests)
    finally:
        connection.close()


converse(carry_out)
