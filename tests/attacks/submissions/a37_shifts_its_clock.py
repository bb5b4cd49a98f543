import time

real, unreal = time.time, time.monotonic

time.time = lambda: real() + 86_400
time.monotonic = lambda: unreal() + 86_400
time.time_ns = lambda: int(time.time() * 1e9)
time.monotonic_ns = lambda: int(time.monotonic() * 1e9)
