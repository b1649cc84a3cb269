"""What runs inside a sandbox. Standard library only, any Python from 3.8; imports nothing from outside this package.

`ringfence_sandbox.artifact` packs the package into one file that images and the local backend carry. Modules prefer
C modules of the standard library (`_json`, `_socket`, `_ctypes`) where their Python wrappers cost more to import than
the whole rest of the start (json 12 ms, enum through socket 8 ms): a start is promised in 25 ms.
"""
