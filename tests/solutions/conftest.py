"""The folders here are programs under test: their kata.toml says how they are run, and is no suite of its own."""

collect_ignore_glob = ["*/*"]
