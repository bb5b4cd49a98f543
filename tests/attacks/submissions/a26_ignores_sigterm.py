import signal

signal.signal(signal.SIGTERM, lambda number, frame: None)
signal.signal = lambda *arguments: None
