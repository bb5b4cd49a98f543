"""What a broken behaviour leaves in a folder: a capture for Wireshark, and a script that replays it without the kit."""
