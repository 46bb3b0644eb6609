"""Every operation of the sweep by name, and those that each run looks at."""

from tests.sweep import conversions, elementwise, indexing, products, recurrent, reductions, shapes

_ALL = (elementwise, reductions, indexing, shapes, products, conversions, recurrent)
OPERATIONS = {operation.name: operation for tables in _ALL for operation in tables.OPERATIONS}
assert len(OPERATIONS) == sum(len(tables.OPERATIONS) for tables in _ALL)
