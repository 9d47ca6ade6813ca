"""The compiler: recorded graphs become machine code."""
