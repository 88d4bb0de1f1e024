"""The contracts that everything else agrees on: events, batches, protocols, errors and settings, with no behaviour of their own.

Every other room imports from here, and this room imports from none, so a change here reaches everything. A change usually
adds a field to `settings`, a reason to `errors`, a message to `answers` or a method to `protocols`.

`events` (the events of each topic, and offsets), `batch` (events as arrays of rows), `dataset` (a whole history as arrays), `superseded` (which
events of a history still hold),
`protocols` (the interfaces between rooms, and those of plug-ins), `answers` (the interface behind the endpoint), `errors`,
`settings`, `times` (times in any unit), `tables` (embedding tables), `arrays` (array types), `kinds` (which clicks are learned), `kernel` (how kernels are compiled), `seed` (reproducible
randomness), `freshness` (waiting for an offset), `garbage_collection` (how often Python looks for reference cycles, and what is given back).
"""
