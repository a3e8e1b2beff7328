"""Answer 500 mixed requests with a limit on the address space of the process: run by test_engine.py."""

import json
import random
import resource
import sys
from pathlib import Path

import torch
from PIL import Image

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.tasks import Answer, Caption, Detect, Point, Query, Request, Sampling

# The limit above the present size: enough for pictures, threads and a part of the slots. All slots need 2 GB.
FREE_BYTES, SLOTS = 512 << 20, 65_536


def mixed_requests(dice):
    tasks = (Caption("short"), Query("what color is the circle"), Detect("circle", 3), Point("dog", 4))
    for number in range(500):
        if number % 4 == 0:
            picture = Image.new("RGB", (dice.randint(20, 400), dice.randint(20, 400)), "red")
        sampling = Sampling(max_tokens=dice.randint(1, 40), temperature=0.7)
        yield Request(str(number), picture, tasks[number % 4], sampling)


def address_space():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmSize:")[1].split()[0]) * 1024


torch.set_num_threads(1)
moondream = Moondream(sys.argv[1], device="cpu", batch_size=SLOTS)
requests = list(mixed_requests(random.Random(0)))
# The first answer loads libraries: they are loaded before the limit is set.
list(Moondream(sys.argv[1], device="cpu", batch_size=4).answer(requests[:20]))
engine = moondream.load()
resource.setrlimit(resource.RLIMIT_AS, (address_space() + FREE_BYTES,) * 2)
outcomes = list(moondream.answer(requests))
answered = sum(isinstance(outcome.result, Answer) for outcome in outcomes)
print(json.dumps({"outcomes": len(outcomes), "answers": answered, "slots": engine.max_slots, "slots before": SLOTS}))
