"""One run of curl for a list of requests, so that it may use its connection again."""

import json
import subprocess
import tempfile
from pathlib import Path

from conversation import converse, outcome

WRITE_OUT = '{"status": "%{http_code}", "exit": %{exitcode}, "headers": %{header_json}}\n'


def arguments(request, answer):
    yield from ("--request", request["method"], "--max-time", str(request["timeout"]))
    for key, value in request["headers"].items():
        yield from ("--header", f"{key}: {value}")
    if request["body"] or request["method"] != "GET":
        answer.with_suffix(".sent").write_text(request["body"])
        yield from ("--data-binary", f"@{answer.with_suffix('.sent')}")
    yield from ("--output", str(answer), "--write-out", WRITE_OUT, request["url"])


def told(line, answer):
    if line["exit"]:
        return {"error": f"curl's exit status {line['exit']}"}
    headers = {key: values[0] for key, values in line["headers"].items()}
    return outcome(int(line["status"]), headers, answer.read_bytes() if answer.exists() else b"")


def carry_out(requests):
    with tempfile.TemporaryDirectory() as folder:
        answers = [Path(folder, str(number)) for number in range(len(requests))]
        words = []
        for request, answer in zip(requests, answers, strict=True):
            words += ["--next", "--silent", "--noproxy", "*", *arguments(request, answer)]
        done = subprocess.run(["curl", *words[1:]], stdout=subprocess.PIPE, text=True, check=False)
        return [told(line, answer) for line, answer in zip(documents(done.stdout), answers, strict=True)]


def documents(text):
    """One JSON object after the other; curl writes headers over several lines."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


converse(carry_out)
