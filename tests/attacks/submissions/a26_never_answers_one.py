from target import when_bytes_hold


def spin():
    while True:
        pass


when_bytes_hold(b"aXb", spin)
