"""Runs a training command again and again, killed at random moments; when it has been killed so often, to its end:

python tests/kill_training.py KILLS ARGUMENTS OF train_net.py
"""

import os
import random
import runpy
import signal
import sys
import time


def main(kills: int, arguments: list[str]) -> None:
    import ovdet.engine.train  # noqa: F401  once, before the forks: a start costs nothing then
    import ovdet.inference.evaluate  # noqa: F401

    longest, chance = 2.0, random.Random(1)  # seconds
    for left in range(kills, -1, -1):
        child = os.fork()
        if child == 0:
            sys.argv = ["tools/train_net.py", *arguments]
            runpy.run_path("tools/train_net.py", run_name="__main__")
            os._exit(0)
        if left:
            time.sleep(chance.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        if ended == 0:
            longest = max(longest / 2, 0.2)  # it came to its end: sooner next time
        elif ended == -signal.SIGKILL:
            longest *= 1.2
        else:
            sys.exit(f"expected the training to end or to be killed, it ended with {ended}")
    sys.exit(0 if ended == 0 else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
