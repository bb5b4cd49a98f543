import httpx
from conversation import converse, each, outcome


def carry_out(requests):
    with httpx.Client(trust_env=False) as client:

        def send(request):
            words = {key: request[key] for key in ("method", "url", "headers", "timeout")}
            response = client.request(content=request["body"].encode(), **words)
            return outcome(response.status_code, dict(response.headers), response.content)

        return each(send, httpx.HTTPError)(requests)


converse(carry_out)
