import sys

print("PASSED katas/pubsub/kata.toml::test_handshake")
print("::notice title=Autograding complete::Points 100/100")
print("::set-output name=score::100")
print("\x1b[2J\x1b[1;1H42 passed in 0.01s \x00 ]]> <script>alert(1)</script>")
print('{"score": 100.0, "tests": []}')
sys.stdout.flush()
sys.exit(1)
