"""Measures Celery over Redis with acks_late: submits per second, and the time from a submit to the start of its task.

CELERY_PEER_URL=redis://... celery_peer.py CALLERS TASKS SINGLES prints one JSON object. The worker is a child process, which imports this file.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time

from celery import Celery

url = os.environ["CELERY_PEER_URL"]
app = Celery("celery_peer", broker=url, backend=url)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_serializer="json", broker_connection_retry_on_startup=True)


@app.task(name="start")
def start(submitted):
    return time.time() - submitted


@app.task(name="noop", ignore_result=True)
def noop(n):
    return n


def process(threads, each, out):
    """One caller process: Python's lock would make one process the bottleneck."""
    app.set_current()

    def call():
        for i in range(each):
            noop.apply_async((i,))

    noop.apply_async((0,))  # connects
    out.put("ready")
    crew = [threading.Thread(target=call) for _ in range(threads)]
    begin = time.time()
    for t in crew:
        t.start()
    for t in crew:
        t.join()
    out.put((begin, time.time()))


def main():
    callers, tasks, singles = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    processes = 4
    each = tasks // callers
    out = multiprocessing.Queue()
    crew = [multiprocessing.Process(target=process, args=(callers // processes, each, out)) for _ in range(processes)]
    for p in crew:
        p.start()
    spans = [s for s in (out.get() for _ in range(2 * processes)) if s != "ready"]
    for p in crew:
        p.join()
    rate = each * callers / (max(e for _, e in spans) - min(b for b, _ in spans))
    app.control.purge()

    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "--concurrency", "2", "--loglevel", "ERROR"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": sys.path[0]},
    )
    try:
        start.delay(time.time()).get(timeout=60)  # until the worker is there
        waits, accepted = [], []
        for _ in range(singles):
            begin = time.time()
            result = start.apply_async((begin,))
            accepted.append(time.time() - begin)
            waits.append(result.get(timeout=60))
    finally:
        worker.terminate()
        worker.wait(timeout=30)
    print(json.dumps({
        "submits_per_second": rate, "submit_p50_ms": 1000 * statistics.median(accepted), "start_p50_ms": 1000 * statistics.median(waits),
    }))


if __name__ == "__main__":
    main()
