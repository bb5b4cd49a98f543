"""`retries` in a request asks urllib3 itself to send it again: on lost connections, 409, 502, 503 and 504."""

import urllib3
from conversation import converse, each, outcome


def carry_out(requests):
    with urllib3.PoolManager() as pool:

        def send(request):
            words = {key: request[key] for key in ("method", "url", "headers", "timeout")}
            response = pool.request(body=request["body"].encode(), retries=retry(request.get("retries", 0)), **words)
            return outcome(response.status, dict(response.headers), response.data)

        return each(send, urllib3.exceptions.HTTPError)(requests)


def retry(times):
    if not times:
        return urllib3.Retry(0, status_forcelist=())
    return urllib3.Retry(times, allowed_methods={"POST"}, status_forcelist={409, 502, 503, 504})


converse(carry_out)
