"""Adds up what test programs say of themselves: reads their output, prints `PASSED FAILED`."""

import re
import sys

text = sys.stdin.read()
passed = failed = 0
# cargo nextest: "Summary [ 3.2s] 9/10 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped"
for total, of, good in re.findall(r"^ *Summary \[.*?\] *(\d+)(?:/(\d+))? tests? run: (\d+) passed", text, re.M):
    passed += int(good)
    failed += int(of or total) - int(good)
# cargo test: "test result: ok. 4 passed; 0 failed; …"; run.py: "interop: 4 passed, 0 failed"
for good, bad in re.findall(r"^(?:test result: \w+\.|interop:) (\d+) passed[;,] (\d+) failed", text, re.M):
    passed += int(good)
    failed += int(bad)
print(passed, failed)
