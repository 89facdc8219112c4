"""Time limits of the tests, in seconds.

They end a test whose program hangs. They do not measure speed: a machine that is four times slower than ours and busy
with other programs must stay far below them. A limit that is what a test tests (a worker that is ended after two
seconds without a heartbeat) stands in that test.
"""

from __future__ import annotations

WAIT_S = 120.0  # the most that a test waits for one event
WAIT_MS = 1000 * WAIT_S  # the same for the browser, which counts milliseconds
HANG_S = 1000.0  # how long a program sleeps that a test expects to be ended: longer than a test may take
