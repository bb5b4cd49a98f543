balloon = []
while len(balloon) < 4096:  # 4 GB and no more, should nobody stop it
    balloon.append(bytearray(b"x" * (1 << 20)))
