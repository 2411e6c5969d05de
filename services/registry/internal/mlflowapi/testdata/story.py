"""The whole story of an MLflow user, told by MLflow's own client against a server given as argv[1]."""

import math
import os
import sys
import tempfile

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LinearRegression

mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
assert client.get_experiment("0").name == "Default"

exp = mlflow.set_experiment("specialists/bull").experiment_id
with mlflow.start_run(run_name="first", tags={"desk": "alpha"}) as run:
    mlflow.log_param("lr", 0.001)
    mlflow.log_params({"batch": 64, "symbol": "SPX"})
    for step in range(5):
        mlflow.log_metric("validation/sharpe", step / 4, step=step)
    mlflow.log_metrics({"loss": 0.5, "nan": math.nan, "inf": math.inf}, step=3)
    mlflow.set_tag("note", "a note with 'quotes'")
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.log_dict({"curve": [1, 2, 3]}, "evaluation.json")
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(os.path.join(d, "model"))
        for name, content in {"MLmodel": "flavors: {}", "weights.bin": "w" * 5000}.items():
            with open(os.path.join(d, "model", name), "w") as f:
                f.write(content)
        mlflow.log_artifacts(os.path.join(d, "model"), "model")
run_id = run.info.run_id

try:
    client.log_param(run_id, "lr", 0.002)
    raise AssertionError("a changed param was taken")
except MlflowException as e:
    assert e.error_code == "INVALID_PARAMETER_VALUE", e.error_code
    assert "Changing param values is not allowed" in str(e), e
client.log_param(run_id, "lr", 0.001)

got = client.get_run(run_id)
assert got.info.status == "FINISHED" and got.info.run_name == "first", got.info
assert got.data.params == {"lr": "0.001", "batch": "64", "symbol": "SPX"}, got.data.params
assert got.data.metrics["validation/sharpe"] == 1.0 and math.isnan(got.data.metrics["nan"]) and got.data.metrics["inf"] == math.inf
assert got.data.tags["desk"] == "alpha" and got.data.tags["note"] == "a note with 'quotes'"
history = client.get_metric_history(run_id, "validation/sharpe")
assert [(m.step, m.value) for m in history] == [(i, i / 4) for i in range(5)], history

files = {f.path: f for f in client.list_artifacts(run_id)}
assert set(files) == {"notes", "evaluation.json", "model"} and files["notes"].is_dir, files
assert [f.path for f in client.list_artifacts(run_id, "notes")] == ["notes/hello.txt"]
assert mlflow.artifacts.load_text(f"runs:/{run_id}/notes/hello.txt") == "hello"
assert mlflow.artifacts.load_dict(f"runs:/{run_id}/evaluation.json") == {"curve": [1, 2, 3]}

with mlflow.start_run(run_name="second"):
    mlflow.log_metric("validation/sharpe", 3)
    mlflow.log_param("lr", "0.1")
found = client.search_runs([exp], "metrics.`validation/sharpe` > 0.5 and params.lr = '0.001' and tags.desk LIKE 'al%'")
assert [r.info.run_id for r in found] == [run_id], found
ordered = client.search_runs([exp], order_by=["metrics.`validation/sharpe` DESC"], max_results=1)
assert ordered[0].info.run_name == "second" and ordered.token
assert client.search_runs([exp], order_by=["metrics.`validation/sharpe` DESC"], max_results=1, page_token=ordered.token)[0].info.run_id == run_id
assert len(mlflow.search_runs([exp])) == 2
assert client.search_experiments(filter_string="name LIKE 'specialists/%'")[0].experiment_id == exp

v1 = mlflow.register_model(f"runs:/{run_id}/model", "bull_specialist")
v2 = mlflow.register_model(f"runs:/{run_id}/model", "bull_specialist", tags={"kind": "again"})
assert (v1.version, v2.version) in {("1", "2"), (1, 2)}, (v1, v2)
client.transition_model_version_stage("bull_specialist", "1", "Production", archive_existing_versions=True)
client.transition_model_version_stage("bull_specialist", "2", "production", archive_existing_versions=True)
stages = {v.version: v.current_stage for v in client.search_model_versions("name='bull_specialist'")}
assert {int(k): s for k, s in stages.items()} == {1: "Archived", 2: "Production"}, stages
assert int(client.get_latest_versions("bull_specialist", ["Production"])[0].version) == 2
client.set_registered_model_alias("bull_specialist", "champion", "1")
assert int(client.get_model_version_by_alias("bull_specialist", "champion").version) == 1
assert int(client.get_model_version_by_alias("bull_specialist", "production").version) == 2
try:
    client.get_model_version_by_alias("bull_specialist", "nobody")
    raise AssertionError("a missing alias was found")
except MlflowException as e:
    assert e.error_code == "INVALID_PARAMETER_VALUE", e.error_code
client.set_model_version_tag("bull_specialist", "2", "approved", "yes")
client.update_registered_model("bull_specialist", "trades rising markets")
model = client.get_registered_model("bull_specialist")
assert model.description == "trades rising markets" and {a: int(v) for a, v in model.aliases.items()} == {"champion": 1, "production": 2}, model
local = mlflow.artifacts.download_artifacts("models:/bull_specialist/Production")
with open(os.path.join(local, "weights.bin")) as f:
    assert f.read() == "w" * 5000
local = mlflow.artifacts.download_artifacts("models:/bull_specialist@champion")
assert sorted(os.listdir(local))[:1] == ["MLmodel"], os.listdir(local)
client.delete_model_version("bull_specialist", "1")
try:
    client.delete_registered_model("bull_specialist")
    raise AssertionError("the production model was deleted")
except MlflowException as e:
    assert e.error_code == "INVALID_PARAMETER_VALUE", e.error_code

fitted = LinearRegression().fit(np.arange(10).reshape(-1, 1), 2 * np.arange(10) + 1)
mlflow.set_experiment("specialists/bull")
with mlflow.start_run():
    mlflow.sklearn.log_model(fitted, "policy", registered_model_name="bull_regressor")
client.transition_model_version_stage("bull_regressor", "1", "Production")
client.set_registered_model_alias("bull_regressor", "champion", "1")
for uri in ("models:/bull_regressor/Production", "models:/bull_regressor@champion", "models:/bull_regressor/1"):
    assert abs(mlflow.pyfunc.load_model(uri).predict(np.array([[20]]))[0] - 41) < 1e-6, uri

client.delete_run(run_id)
assert client.get_run(run_id).info.lifecycle_stage == "deleted"
client.restore_run(run_id)
client.delete_experiment(exp)
assert client.get_experiment(exp).lifecycle_stage == "deleted"
client.restore_experiment(exp)
print("story told")
