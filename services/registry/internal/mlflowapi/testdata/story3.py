"""What MLflow 3 adds: models of their own, told by its client against a server given as argv[1]."""

import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
exp = mlflow.set_experiment("regressors").experiment_id
x = np.arange(10).reshape(-1, 1)
fitted = LinearRegression().fit(x, 2 * x.ravel() + 1)

with mlflow.start_run() as run:
    mlflow.log_param("alpha", 0.5)
    mlflow.log_metric("loss", 0.25)
    info = mlflow.sklearn.log_model(fitted, name="line", registered_model_name="line", params={"depth": "3"})
    mlflow.log_metric("accuracy", 0.75, step=1, model_id=info.model_id)

model = mlflow.get_logged_model(info.model_id)
assert str(model.status) in ("READY", "LoggedModelStatus.READY"), model.status
assert model.source_run_id == run.info.run_id and model.params["depth"] == "3", model
assert {m.key: m.value for m in model.metrics}["accuracy"] == 0.75, model.metrics
assert client.get_run(run.info.run_id).outputs.model_outputs[0].model_id == info.model_id

found = mlflow.search_logged_models([exp], filter_string="metrics.accuracy > 0.5 AND params.depth = '3'", output_format="list")
assert [m.model_id for m in found] == [info.model_id], found
assert mlflow.search_logged_models([exp], filter_string="metrics.accuracy > 0.9", output_format="list") == []

client.transition_model_version_stage("line", "1", "Production") if hasattr(client, "transition_model_version_stage") else None
client.set_registered_model_alias("line", "champion", "1")
version = client.get_model_version_by_alias("line", "champion")
# MLflow 3.17 reads no model_id from a version; the source names the model all the same.
assert version.source == f"models:/{info.model_id}" and version.run_id == run.info.run_id, version
for uri in (info.model_uri, f"models:/{info.model_id}", "models:/line/1", "models:/line@champion", "models:/line/Production", f"runs:/{run.info.run_id}/line"):
    loaded = mlflow.sklearn.load_model(uri)
    assert abs(loaded.predict([[20]])[0] - 41) < 1e-6, uri

client.set_logged_model_tags(info.model_id, {"reviewed": "yes"})
assert mlflow.get_logged_model(info.model_id).tags["reviewed"] == "yes"
client.delete_logged_model_tag(info.model_id, "reviewed")
assert "reviewed" not in mlflow.get_logged_model(info.model_id).tags
print("story told")
