"""Imports every module of the SDK and asks each for what it promises: run by `make check`."""

import importlib
import pathlib
import sys

source = pathlib.Path(__file__).parent / "src"
sys.path.insert(0, str(source))

problems = []
services = 0
for path in sorted(source.rglob("*_pb2*.py")):
    name = ".".join(path.relative_to(source).with_suffix("").parts)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # Whatever fails, the report names all of them.
        problems.append(f"{name}: {type(error).__name__}: {error}")
        continue
    if name.endswith("_pb2_grpc"):
        services += 1
        if not any(attribute.endswith("Stub") for attribute in vars(module)):
            problems.append(f"{name}: has no stub")
    elif not module.DESCRIPTOR.package.startswith("trainyard."):
        problems.append(f"{name}: package {module.DESCRIPTOR.package} is not ours")
    if name.endswith("_pb2") and not path.with_suffix(".pyi").exists():
        problems.append(f"{name}: has no type stub")

if services == 0:
    problems.append("no service was found")
if problems:
    sys.exit("\n".join(problems))
print(f"Python SDK: every module imports, {services} services have stubs")
