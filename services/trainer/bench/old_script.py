"""One training as the old scripts did it: read the history, compute the features, train, by itself. Prints figures and times as JSON.

python old_script.py HISTORY.csv SPECIALIST EPOCHS SEED...
"""
import json, os, sys, time

began, cpu = time.perf_counter(), time.process_time()
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "..", "tools", "examples"))
import torch
import specialist

torch.set_num_threads(1)
history, name, epochs, seeds = sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(s) for s in sys.argv[4:]]
imported = time.perf_counter()
world = specialist.World(specialist.from_csv(history), specialist.REGIMES.index(name))
loaded, loaded_cpu = time.perf_counter(), time.process_time()
best = [specialist.train(world, specialist.Prints(), seed=s, epochs=epochs, quiet=True) for s in seeds]
print(json.dumps({
    "best": best, "import_s": imported - began, "load_s": loaded - imported, "train_s": time.perf_counter() - loaded,
    "cpu_s": time.process_time() - cpu, "load_cpu_s": loaded_cpu - cpu,
}))
