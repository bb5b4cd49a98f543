"""Backend Katas: programs judged over their sockets, by facts."""
