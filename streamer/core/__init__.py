"""The contracts that everything else agrees on: events, batches, protocols, errors and settings, with no behaviour of their own.

Every other room imports from here, and this room imports from none, so a change here reaches everything. A change usually
adds a field to `settings`, a reason to `errors`, a message to `answers` or a method to `protocols`.

`events` (what arrives, and offsets), `batch` (events as arrays of rows), `dataset` (a whole history as arrays), `protocols` (the
seams), `answers` (what the endpoint asks and is answered), `errors`, `settings`, `tables` (embedding tables), `arrays` (their
dtypes), `kernel` (how kernels are compiled), `seed` (randomness as a function), `freshness` (waiting for an offset),
`garbage_collection` (when Python looks for reference cycles).
"""
