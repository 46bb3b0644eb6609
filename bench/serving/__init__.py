"""What answers cost beside the HTTP around them: `python -m bench.serving`.

scenarios.py  what is asked, by how many callers, of whom                          payloads.py  the bytes of it
exports.py    the policies that are served, made by policies.py and slow_layer.py
launch.py     by start_servers.py: the server, echo.py, naive.py, in_process.py, peers/
run.py        all of a scenario by turns, round by round                           targets.py    one turn → a sample
results.py    samples → medians and ratios                                         acceptance.py what they have to be
report.py     tables; JSON                                                         chart.py      a picture
"""
