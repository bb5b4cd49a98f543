import requests
from conversation import converse, each, outcome


def carry_out(wanted):
    with requests.Session() as session:
        session.trust_env = False

        def send(request):
            words = {key: request[key] for key in ("method", "url", "headers", "timeout")}
            response = session.request(data=request["body"].encode(), **words)
            return outcome(response.status_code, dict(response.headers), response.content)

        return each(send, requests.RequestException)(wanted)


converse(carry_out)
