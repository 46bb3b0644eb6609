"""Renders a chart with Helm's own library, and holds what comes out against Kubernetes' schemas.

    .deploy/bin/python tests/deploy/render_chart.py CHART [RELEASE NAMESPACE VALUES.json]…

Prints a JSON object for each triple, a line each: `{"files": {template: text}, "problems": […]}`, or `{"refused": why}`
where the chart does not take the values. Without a triple: what Helm's linter says of the chart.
Run by the environment of requirements-deploy.lock, which has nothing of this repository.
"""

import json
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

# The oldest that the chart takes, one between, and the newest that there are schemas of.
VERSIONS = ("1.25", "1.31", "1.37")


def main(chart: str, *triples: str) -> None:
    if not triples:
        print(json.dumps({"lint": helm_python.lint(chart)}, default=str))
    with helm_python.Chart.load(chart) as loaded:
        for number in range(0, len(triples), 3):
            release, namespace, file = triples[number : number + 3]
            values = json.loads(Path(file).read_text())
            print(json.dumps(rendered(loaded, release, namespace, values)))


def rendered(chart: helm_python.Chart, release: str, namespace: str, values: dict) -> dict:
    try:
        chart.validate_schema(values)
        files = chart.render(values, name=release, namespace=namespace)
    except helm_python.HelmError as error:
        return {"refused": str(error)}
    files = {name: text for name, text in files.items() if text.strip()}
    return {"files": files, "problems": [problem for name in files for problem in problems(name, files[name])]}


def problems(name: str, text: str) -> list[str]:
    if not name.endswith(".yaml"):
        return []
    found = []
    for document in filter(None, yaml.safe_load_all(text)):
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            continue  # the Prometheus operator's, of which no schema is here
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:
                found.append(f"{name}, {version}: {error}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
