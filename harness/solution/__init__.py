"""The program under test: launched, watched through the kernel, stopped with everything it started."""
