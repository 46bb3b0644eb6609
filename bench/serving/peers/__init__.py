"""Other model servers, each in an environment of its own, with the same compiled policy. One file for each of them.

table.py         who they are, and what they are asked      policy.py    the compiled policy, as all of them run it
environments.py  makes the environments                     *_server.py  started by the Python of such an environment
"""
