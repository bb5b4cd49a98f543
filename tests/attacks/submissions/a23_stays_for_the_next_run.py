import os

from target import T, trying


def leave(folder):
    with open(os.path.join(folder, T["mark"]), "w") as file:
        file.write("for the next run")


for folder in (*T["leave"], os.environ["HOME"], "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"):
    trying(lambda folder=folder: leave(folder))
